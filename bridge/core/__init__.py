"""Pure decisions: values in, decisions out; no I/O, no clock, no randomness, no logging."""
