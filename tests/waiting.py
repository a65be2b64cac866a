"""How long a test waits for an effect before it fails."""

SAFETY_SECONDS = 120.0
"""Limit of a wait that normally takes less than a second. A slow and busy machine may need 100 times as long, above all
to start a program. A longer limit costs nothing when the wait succeeds."""

HELD_SECONDS = 50.0
"""Limit of a wait for an answer that a change must end. Without the change, the API may hold it for up to 60 s."""
