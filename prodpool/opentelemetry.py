"""The metrics of the pools for OpenTelemetry."""

from __future__ import annotations

from prodpool.telemetry.exporters.opentelemetry import PoolMetricExporter

__all__ = ["PoolMetricExporter"]
