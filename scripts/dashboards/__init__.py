"""Grafana dashboards of deploy/observability, written as Python."""
