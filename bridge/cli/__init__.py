"""The commands of the command line, one module each: `run(args)` runs the command and returns the exit code.

A module imports only what its command needs, and `main` imports a module only when its command is run.
"""
