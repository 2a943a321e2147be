// The workload of the conformance suite with the JavaScript SDK; see ../README.md.
import { parseArgs } from 'node:util';
import { OTLPMetricExporter as GrpcExporter } from '@opentelemetry/exporter-metrics-otlp-grpc';
import { OTLPMetricExporter as HttpExporter } from '@opentelemetry/exporter-metrics-otlp-proto';
import { CompressionAlgorithm } from '@opentelemetry/otlp-exporter-base';
import { AggregationTemporalityPreference } from '@opentelemetry/exporter-metrics-otlp-http';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { AggregationType, MeterProvider, PeriodicExportingMetricReader } from '@opentelemetry/sdk-metrics';

const text = { type: 'string' };
const { values: options } = parseArgs({
  options: { endpoint: text, protocol: text, temporality: text, service: text, rounds: text },
});
const temporalityPreference =
  AggregationTemporalityPreference[options.temporality === 'delta' ? 'DELTA' : 'CUMULATIVE'];
const exporter =
  options.protocol === 'grpc'
    ? new GrpcExporter({ url: `http://${options.endpoint}`, temporalityPreference })
    : new HttpExporter({
        url: `http://${options.endpoint}/v1/metrics`,
        compression: CompressionAlgorithm.GZIP,
        temporalityPreference,
      });
const provider = new MeterProvider({
  resource: resourceFromAttributes({ 'service.name': options.service }),
  // Exports only when it is told to.
  readers: [new PeriodicExportingMetricReader({ exporter, exportIntervalMillis: 3_600_000 })],
  views: [
    {
      instrumentName: 'size',
      aggregation: { type: AggregationType.EXPONENTIAL_HISTOGRAM, options: { maxSize: 160, recordMinMax: true } },
    },
    {
      instrumentName: 'latency',
      aggregation: { type: AggregationType.EXPLICIT_BUCKET_HISTOGRAM, options: { boundaries: [1, 2, 5, 10, 20] } },
    },
  ],
});
const meter = provider.getMeter('conformance');
const orders = meter.createCounter('orders', { unit: '{order}', valueType: 0 });
const volume = meter.createCounter('volume', { unit: 'l' });
const queue = meter.createUpDownCounter('queue', { unit: '{item}', valueType: 0 });
const latency = meter.createHistogram('latency', { unit: 'ms' });
const size = meter.createHistogram('size', { unit: 'By' });
let round = 0;
meter.createObservableGauge('temperature', { unit: 'Cel' }).addCallback((result) => result.observe(20 + round));

for (let i = 1; i <= Number(options.rounds); i++) {
  round = i;
  orders.add(i, { key: 'a' });
  orders.add(2 * i, { key: 'b' });
  volume.add(0.5 * i, { key: 'a' });
  volume.add(0.25, { key: 'b' });
  queue.add(3);
  queue.add(-1);
  for (let j = 0; j < 10; j++) {
    latency.record(((7 * i + 3 * j) % 25) + 0.5, { key: 'ab'[j % 2] });
    size.record(1.5 * 2 ** ((i + j) % 12));
  }
  await provider.forceFlush();
}
await provider.shutdown();
