import io.opentelemetry.api.common.AttributeKey;
import io.opentelemetry.api.common.Attributes;
import io.opentelemetry.api.metrics.DoubleHistogram;
import io.opentelemetry.api.metrics.Meter;
import io.opentelemetry.exporter.otlp.http.metrics.OtlpHttpMetricExporter;
import io.opentelemetry.exporter.otlp.metrics.OtlpGrpcMetricExporter;
import io.opentelemetry.sdk.common.CompletableResultCode;
import io.opentelemetry.sdk.metrics.Aggregation;
import io.opentelemetry.sdk.metrics.InstrumentSelector;
import io.opentelemetry.sdk.metrics.SdkMeterProvider;
import io.opentelemetry.sdk.metrics.View;
import io.opentelemetry.sdk.metrics.export.AggregationTemporalitySelector;
import io.opentelemetry.sdk.metrics.export.MetricExporter;
import io.opentelemetry.sdk.metrics.export.PeriodicMetricReader;
import io.opentelemetry.sdk.resources.Resource;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/** The workload of the conformance suite with the Java SDK; see ../README.md. */
public final class Sender {
    private static final AttributeKey<String> KEY = AttributeKey.stringKey("key");

    public static void main(String[] args) {
        Map<String, String> options = new HashMap<>();
        for (int i = 0; i < args.length; i += 2) {
            options.put(args[i].substring(2), args[i + 1]);
        }
        SdkMeterProvider provider = SdkMeterProvider.builder()
            // Exports only when it is told to.
            .registerMetricReader(PeriodicMetricReader.builder(exporter(options)).setInterval(Duration.ofHours(1)).build())
            .setResource(Resource.create(Attributes.of(AttributeKey.stringKey("service.name"), options.get("service"))))
            .registerView(
                InstrumentSelector.builder().setName("size").build(),
                View.builder().setAggregation(Aggregation.base2ExponentialBucketHistogram()).build())
            .build();
        record(provider, Integer.parseInt(options.get("rounds")));
        check(provider.shutdown(), "shutdown");
        System.exit(0);
    }

    private static MetricExporter exporter(Map<String, String> options) {
        AggregationTemporalitySelector temporality = options.get("temporality").equals("delta")
            ? AggregationTemporalitySelector.deltaPreferred()
            : AggregationTemporalitySelector.alwaysCumulative();
        if (options.get("protocol").equals("grpc")) {
            return OtlpGrpcMetricExporter.builder().setEndpoint("http://" + options.get("endpoint"))
                .setAggregationTemporalitySelector(temporality).build();
        }
        return OtlpHttpMetricExporter.builder().setEndpoint("http://" + options.get("endpoint") + "/v1/metrics")
            .setCompression("gzip").setAggregationTemporalitySelector(temporality).build();
    }

    private static void record(SdkMeterProvider provider, int rounds) {
        Meter meter = provider.get("conformance");
        var orders = meter.counterBuilder("orders").setUnit("{order}").build();
        var volume = meter.counterBuilder("volume").ofDoubles().setUnit("l").build();
        var queue = meter.upDownCounterBuilder("queue").setUnit("{item}").build();
        DoubleHistogram latency = meter.histogramBuilder("latency").setUnit("ms")
            .setExplicitBucketBoundariesAdvice(List.of(1.0, 2.0, 5.0, 10.0, 20.0)).build();
        DoubleHistogram size = meter.histogramBuilder("size").setUnit("By").build();
        AtomicInteger round = new AtomicInteger();
        meter.gaugeBuilder("temperature").setUnit("Cel").buildWithCallback(gauge -> gauge.record(20.0 + round.get()));
        Attributes[] keys = {Attributes.of(KEY, "a"), Attributes.of(KEY, "b")};
        for (int i = 1; i <= rounds; i++) {
            round.set(i);
            orders.add(i, keys[0]);
            orders.add(2 * i, keys[1]);
            volume.add(0.5 * i, keys[0]);
            volume.add(0.25, keys[1]);
            queue.add(3);
            queue.add(-1);
            for (int j = 0; j < 10; j++) {
                latency.record((7 * i + 3 * j) % 25 + 0.5, keys[j % 2]);
                size.record(1.5 * Math.pow(2, (i + j) % 12));
            }
            check(provider.forceFlush(), "flush");
        }
    }

    private static void check(CompletableResultCode result, String what) {
        if (!result.join(30, TimeUnit.SECONDS).isSuccess()) {
            System.err.println(what + " failed");
            System.exit(1);
        }
    }
}
