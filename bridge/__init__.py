"""The amux bridge: watches amux video tasks and delivers each one's end as one signed webhook."""

__version__ = "0.2.0"
