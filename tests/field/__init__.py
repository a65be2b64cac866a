"""The field lab: the real program, `amux-bridge serve`, in the environments in which people run it.

Each file is one environment. It prepares the environment, starts the program with `harness.serving`, and checks that it
does its work with `harness.check_works`. Where a machine does not allow an environment, its tests are skipped with the
reason.
"""
