"""The command line's commands, a module each: `run(given)` does it and returns the exit code.

A module imports what its command needs and nothing else, and none is imported before its command is asked for.
"""
