"""The only place that knows amux: its routes, its bodies, its errors."""

from bridge.amux.client import AmuxClient, AmuxUnavailable

__all__ = ["AmuxClient", "AmuxUnavailable"]
