"""Dashboards and alerts as values. So far: the alerts on the pipeline itself; the rest comes with its issue."""
