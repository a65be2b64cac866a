"""Sends one guarded POST: look-up, judgement of the target, and the request itself."""
