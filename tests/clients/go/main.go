// Command client asks a ClickHouse HTTP endpoint as Grafana's plugin does, with clickhouse-go v2, and prints what it
// got as one JSON object. The Python test beside it compares.
//
//	client ADDRESS METHOD SCENARIO
//
// METHOD is none, lz4, zstd, gzip or deflate; SCENARIO is types, grafana, errors, limits or large.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

var methods = map[string]*clickhouse.Compression{
	"none":    nil,
	"lz4":     {Method: clickhouse.CompressionLZ4},
	"zstd":    {Method: clickhouse.CompressionZSTD, Level: 3},
	"gzip":    {Method: clickhouse.CompressionGZIP, Level: 1},
	"deflate": {Method: clickhouse.CompressionDeflate, Level: 1},
}

type facts map[string]any

var scenarios = map[string]func(context.Context, driver.Conn) (facts, error){
	"types":   types,
	"grafana": grafana,
	"errors":  refusals,
	"limits":  limits,
	"large":   large,
}

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(address, method, scenario string) error {
	conn, err := clickhouse.Open(&clickhouse.Options{
		Addr:        []string{address},
		Protocol:    clickhouse.HTTP,
		Auth:        clickhouse.Auth{Database: "default", Username: "default"},
		Compression: methods[method],
		Settings:    clickhouse.Settings{"max_execution_time": 60},
		DialTimeout: 10 * time.Second,
		ReadTimeout: 120 * time.Second,
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx := context.Background()
	if err := conn.Ping(ctx); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	found, err := scenarios[scenario](ctx, conn)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(found)
}

func types(ctx context.Context, conn driver.Conn) (facts, error) {
	var (
		unsigned uint64
		wide     big.Int
		text     string
		low      string
		missing  *string
		present  *int32
		mapping  map[string]string
		buckets  map[int64]uint64
		list     []uint64
		bracket  []any
		moment   time.Time
		precise  time.Time
		ratio    float64
		flag     bool
	)
	row := conn.QueryRow(ctx, `SELECT
		toUInt64(18446744073709551615), toInt128('-170141183460469231731687303715884105728'), 'snow ☃',
		toLowCardinality('low'), CAST(NULL, 'Nullable(String)'), CAST(7, 'Nullable(Int32)'),
		CAST(map('k', 'v'), 'Map(LowCardinality(String), String)'), CAST(map(-1, 2), 'Map(Int64, UInt64)'),
		[1, 2, 3]::Array(UInt64), (1.5::Float64, 'x'), toDateTime('2026-01-02 03:04:05', 'UTC'),
		toDateTime64('2026-01-02 03:04:05.678901234', 9, 'Asia/Tokyo'), 0.25::Float64, true`)
	err := row.Scan(&unsigned, &wide, &text, &low, &missing, &present, &mapping, &buckets, &list, &bracket, &moment,
		&precise, &ratio, &flag)
	if err != nil {
		return nil, fmt.Errorf("types: %w", err)
	}
	var bound string
	if err := conn.QueryRow(ctx, "SELECT {name:String}", clickhouse.Named("name", "o'neil")).Scan(&bound); err != nil {
		return nil, fmt.Errorf("parameter: %w", err)
	}
	rows, err := conn.Query(ctx, "SELECT number, toString(number) FROM numbers(0)")
	if err != nil {
		return nil, fmt.Errorf("empty: %w", err)
	}
	defer rows.Close()
	return facts{
		"unsigned": fmt.Sprint(unsigned), "wide": wide.String(), "text": text, "low": low, "missing": missing,
		"present": *present, "mapping": mapping, "buckets": buckets, "list": list, "bracket": bracket,
		"moment": moment.UTC().Format(time.RFC3339), "precise": precise.UTC().Format(time.RFC3339Nano),
		"ratio": ratio, "flag": flag, "bound": bound, "empty_columns": rows.Columns(), "empty_has_row": rows.Next(),
	}, rows.Err()
}

// grafana sends what the plugin's health check and query builder send.
func grafana(ctx context.Context, conn driver.Conn) (facts, error) {
	found := facts{}
	queries := map[string]string{
		"version":   "SELECT version()",
		"databases": "SHOW DATABASES",
		"tables":    "SELECT name FROM system.tables WHERE database = 'catchment' ORDER BY name",
		"columns":   "SELECT name FROM system.columns WHERE database = 'catchment' AND table = 'points' ORDER BY position",
		"timezone":  "SELECT timezone()",
		"series": `SELECT toString(sum(value)) FROM "catchment"."points" WHERE ( time >= toDateTime(1767225600) AND ` +
			`time <= toDateTime(1767229200) ) GROUP BY toStartOfInterval(toDateTime(time), INTERVAL 1800 second) ` +
			`ORDER BY toStartOfInterval(toDateTime(time), INTERVAL 1800 second) ASC LIMIT 1000`,
	}
	ctx = clickhouse.Context(ctx, clickhouse.WithQueryID("grafana-1"), clickhouse.WithSettings(clickhouse.Settings{
		"max_execution_time": 30, "max_block_size": 1000,
	}))
	for name, query := range queries {
		values, err := texts(ctx, conn, query)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		found[name] = values
	}
	return found, nil
}

func texts(ctx context.Context, conn driver.Conn, query string) ([]string, error) {
	rows, err := conn.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	values := []string{}
	for rows.Next() {
		var value string
		if err := rows.Scan(&value); err != nil {
			return nil, err
		}
		values = append(values, value)
	}
	return values, rows.Err()
}

func refusals(ctx context.Context, conn driver.Conn) (facts, error) {
	found := facts{}
	queries := map[string]string{
		"syntax": "SELECT FROM WHERE", "table": "SELECT * FROM missing", "column": "SELECT missing",
		"write": "INSERT INTO points SELECT 1", "file": "SELECT file('/etc/passwd')",
	}
	for name, query := range queries {
		_, err := texts(ctx, conn, query)
		found[name] = describe(err)
	}
	found["exec"] = describe(conn.Exec(ctx, "DROP TABLE points"))
	_, err := texts(ctx, conn, "SELECT 'fine'")
	return found, err
}

func limits(ctx context.Context, conn driver.Conn) (facts, error) {
	found := facts{}
	small := clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"max_memory_usage": 50_000_000}))
	_, err := texts(small, conn, "SELECT toString(length(groupArray(number))) FROM numbers(100000000)")
	found["memory"] = describe(err)
	short := clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"max_execution_time": 1}))
	_, err = texts(short, conn, "SELECT toString(count()) FROM numbers(100000000000) WHERE sin(number) > 2")
	found["time"] = describe(err)
	values, err := texts(ctx, conn, "SELECT 'fine'")
	found["after"] = values
	return found, err
}

func large(ctx context.Context, conn driver.Conn) (facts, error) {
	rows, err := conn.Query(ctx, "SELECT number, repeat('x', 40) FROM numbers(1000000)")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var count, sum, bytes uint64
	for rows.Next() {
		var number uint64
		var text string
		if err := rows.Scan(&number, &text); err != nil {
			return nil, err
		}
		count, sum, bytes = count+1, sum+number, bytes+uint64(len(text))
	}
	return facts{"count": count, "sum": sum, "bytes": bytes}, rows.Err()
}

func describe(err error) facts {
	var exception *clickhouse.Exception
	var failure *clickhouse.HTTPError
	if err == nil {
		return facts{"code": 0}
	}
	if !errors.As(err, &exception) {
		return facts{"code": -1, "text": err.Error()}
	}
	status := 0
	if errors.As(err, &failure) {
		status = failure.StatusCode
	}
	return facts{"code": exception.Code, "name": exception.CodeName, "text": exception.Message, "status": status}
}
