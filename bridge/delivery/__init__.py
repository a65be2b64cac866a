"""Delivery of events to receivers: fairness between hosts, claims from the outbox, attempts and their records."""
