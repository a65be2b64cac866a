"""The amux bridge: it polls amux video tasks and sends the end of each one as a signed webhook."""

__version__ = "0.2.0"
USER_AGENT = f"amux-bridge/{__version__}"
