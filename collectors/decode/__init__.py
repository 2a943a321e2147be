"""Decoding: OTLP bytes to columns, and attributes to canonical form."""
