"""How long a test waits for an effect before it fails."""

SAFETY_SECONDS = 120.0
"""For a wait on a condition that normally takes less than a second. A slow and busy machine may need 100 times as long,
above all to start a program, and a wait that succeeds costs no more with a longer limit."""

HELD_SECONDS = 50.0
"""For an answer that comes before it must: the API holds an answer for 60 s at most."""
