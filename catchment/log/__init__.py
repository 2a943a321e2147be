"""The messaging between tiers: one port, an adapter each for SQLite and Kafka."""
