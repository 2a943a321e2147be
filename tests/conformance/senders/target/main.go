// A program with one metric of each sort, as Prometheus' own client exposes them: text, OpenMetrics and protobuf at
// /metrics. It listens on the address that is its argument. Its values move with each GET of /turn, by what
// tests/conformance/native_target.py knows.
package main

import (
	"log"
	"math"
	"net/http"
	"os"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	keys         = 5
	observations = 12
)

var (
	bounds = []float64{0.25, 1, 4, 16}
	trace  = prometheus.Labels{"trace_id": "0123456789abcdef0123456789abcdef", "span_id": "0123456789abcdef"}
)

func histogram(name string, buckets []float64, factor float64) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:                         name,
		Help:                         "What was observed.",
		Buckets:                      buckets,
		NativeHistogramBucketFactor:  factor,
		NativeHistogramZeroThreshold: 0.001,
	}, []string{"key"})
}

func main() {
	registry := prometheus.NewRegistry()
	orders := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "orders_total", Help: "Orders."}, []string{"key"})
	depth := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "depth", Help: "Depth."}, []string{"key"})
	rpc := prometheus.NewSummaryVec(prometheus.SummaryOpts{
		Name: "rpc_seconds", Help: "Calls.", Objectives: map[float64]float64{0.5: 0.05},
	}, []string{"key"})
	classic := histogram("classic_seconds", bounds, 0)
	native := histogram("native_seconds", nil, 1.1)
	both := histogram("both_seconds", bounds, 1.1)
	registry.MustRegister(orders, depth, rpc, classic, native, both)
	turn := 0
	move := func() {
		for n := range keys {
			key := "k" + strconv.Itoa(n)
			orders.WithLabelValues(key).Add(float64(turn * (n + 1)))
			depth.WithLabelValues(key).Set(float64(turn+n) + 0.5)
			rpc.WithLabelValues(key).Observe(float64(n) + 0.25)
			for j := range observations {
				value := 0.0
				if j > 0 && turn > 0 {
					value = 0.01 * math.Pow(1.37, float64((turn*7+n*3+j*5)%40)) * float64(1-2*(j%3/2))
				}
				for _, each := range []*prometheus.HistogramVec{classic, native, both} {
					each.WithLabelValues(key).(prometheus.ExemplarObserver).ObserveWithExemplar(value, trace)
				}
			}
		}
		turn++
	}
	move()
	http.HandleFunc("/turn", func(answer http.ResponseWriter, _ *http.Request) {
		move()
		answer.WriteHeader(http.StatusNoContent)
	})
	http.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}
