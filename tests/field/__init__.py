"""The field lab: the real program, `amux-bridge serve`, in the environments in which people run it.

Each test file is about one environment. A test prepares the environment, starts the program with `harness.serving`, and
checks with `harness.check_works` that the program works. If a machine does not allow an environment, its tests are
skipped, and the skip gives the reason.
"""
