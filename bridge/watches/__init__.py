"""Registration and cancellation of watches, and notification of callers that wait for a watch to change."""
