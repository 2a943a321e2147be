// The workload of the conformance suite with the Go SDK; see ../README.md.
package main

import (
	"context"
	"flag"
	"log"
	"math"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
)

var (
	endpoint    = flag.String("endpoint", "", "host:port")
	protocol    = flag.String("protocol", "http", "http or grpc")
	temporality = flag.String("temporality", "cumulative", "cumulative or delta")
	service     = flag.String("service", "", "service.name")
	rounds      = flag.Int("rounds", 1, "rounds of the workload")
)

func main() {
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	selector := sdk.CumulativeTemporalitySelector
	if *temporality == "delta" {
		selector = sdk.DeltaTemporalitySelector
	}
	exporter, err := newExporter(ctx, selector)
	check(err)
	size := sdk.NewView(sdk.Instrument{Name: "size"},
		sdk.Stream{Aggregation: sdk.AggregationBase2ExponentialHistogram{MaxSize: 160, MaxScale: 20}})
	provider := sdk.NewMeterProvider(
		// Exports only when it is told to.
		sdk.WithReader(sdk.NewPeriodicReader(exporter, sdk.WithInterval(time.Hour))),
		sdk.WithResource(resource.NewSchemaless(attribute.String("service.name", *service))),
		sdk.WithView(size))
	check(record(ctx, provider))
	check(provider.Shutdown(ctx))
}

func newExporter(ctx context.Context, selector sdk.TemporalitySelector) (sdk.Exporter, error) {
	if *protocol == "grpc" {
		return otlpmetricgrpc.New(ctx, otlpmetricgrpc.WithEndpoint(*endpoint), otlpmetricgrpc.WithInsecure(),
			otlpmetricgrpc.WithTemporalitySelector(selector))
	}
	return otlpmetrichttp.New(ctx, otlpmetrichttp.WithEndpoint(*endpoint), otlpmetrichttp.WithInsecure(),
		otlpmetrichttp.WithTemporalitySelector(selector), otlpmetrichttp.WithCompression(otlpmetrichttp.GzipCompression))
}

func record(ctx context.Context, provider *sdk.MeterProvider) error {
	meter := provider.Meter("conformance")
	orders, err := meter.Int64Counter("orders", metric.WithUnit("{order}"))
	check(err)
	volume, err := meter.Float64Counter("volume", metric.WithUnit("l"))
	check(err)
	queue, err := meter.Int64UpDownCounter("queue", metric.WithUnit("{item}"))
	check(err)
	latency, err := meter.Float64Histogram("latency", metric.WithUnit("ms"),
		metric.WithExplicitBucketBoundaries(1, 2, 5, 10, 20))
	check(err)
	size, err := meter.Float64Histogram("size", metric.WithUnit("By"))
	check(err)
	var round atomic.Int64
	_, err = meter.Float64ObservableGauge("temperature", metric.WithUnit("Cel"),
		metric.WithFloat64Callback(func(_ context.Context, observer metric.Float64Observer) error {
			observer.Observe(20 + float64(round.Load()))
			return nil
		}))
	check(err)
	keys := []metric.MeasurementOption{
		metric.WithAttributes(attribute.String("key", "a")), metric.WithAttributes(attribute.String("key", "b"))}
	for i := 1; i <= *rounds; i++ {
		round.Store(int64(i))
		orders.Add(ctx, int64(i), keys[0])
		orders.Add(ctx, int64(2*i), keys[1])
		volume.Add(ctx, 0.5*float64(i), keys[0])
		volume.Add(ctx, 0.25, keys[1])
		queue.Add(ctx, 3)
		queue.Add(ctx, -1)
		for j := 0; j < 10; j++ {
			latency.Record(ctx, float64((7*i+3*j)%25)+0.5, keys[j%2])
			size.Record(ctx, 1.5*math.Pow(2, float64((i+j)%12)))
		}
		if err := provider.ForceFlush(ctx); err != nil {
			return err
		}
	}
	return nil
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
