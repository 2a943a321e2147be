"""The store tier: global tables, loader, views and the SQL endpoint."""
