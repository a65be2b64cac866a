"""The only folder that knows amux: its routes, its bodies and its errors."""

from bridge.amux.client import AmuxClient, AmuxUnavailable

__all__ = ["AmuxClient", "AmuxUnavailable"]
