"""The deliverer's parts: fairness between hosts, one attempt, its record, and the backlog in the outbox."""
