"""Sends one guarded POST: the look-up of the name, the check of the target, and the request itself."""
