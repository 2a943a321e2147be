"""The collector tier: OTLP in, mergeable rows out; durable before it answers."""
