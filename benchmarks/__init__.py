"""Benchmarks: one module per stage, and a loop over protobuf objects as the baseline. ``make bench`` runs them all."""
