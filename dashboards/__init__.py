"""The dashboards tier: comes with its issue."""
