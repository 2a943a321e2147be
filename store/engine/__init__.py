"""The SQL engine: its port and its adapters."""
