"""`python tests/bench [NAME ...] [--full] [--picture FILE]`: compares the bridge with bare loops of the same libraries.

The default size takes about six minutes for all benchmarks. Trust CPU times and ratios: wall-clock times depend on
this machine and on the other programs that run on it.
"""

import argparse
import gc
import importlib
import os
import sys
import tempfile
import time
from pathlib import Path

if not __package__:  # run as a folder: `python tests/bench`
    sys.path[0] = str(Path(__file__).parents[2])

from tests.bench.harness import Bench, Size
from tests.bench.picture import picture
from tests.bench.processes import LOADING
from tests.bench.table import Row, table

NAMES = (
    "polls",
    "registrations",
    "deliveries",
    "memory",
    "flat",
    "spread",
    "replicas",
    "cost",
    "moments",
    "batch",
    "million",
    "day",
)
ON_REQUEST = ("peers",)  # needs Node, Redis and npm's packages


def main() -> int:
    """Runs the chosen benchmarks and returns 0 if every target holds, else 1."""
    arguments = _arguments()
    os.sched_setaffinity(0, {LOADING})
    began = time.monotonic()
    for folder in (arguments.profile, arguments.pictures):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def log(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {text}", file=sys.stderr, flush=True)

    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as folder:
        bench = Bench(Path(folder), arguments.size, log, arguments.profile, arguments.pictures, tuple(arguments.rates))
        modules = [importlib.import_module(f"tests.bench.{name}") for name in arguments.names or NAMES]
        gc.collect()
        gc.freeze()  # the children share these objects; a collection in a child would copy their pages
        for module in modules:
            for row in module.run(bench):
                log("  ".join(filter(None, row.cells())))
                rows.append(row)
    print(table(rows))
    if arguments.picture is not None:
        arguments.picture.write_text(picture(rows))
    return 1 if any(row.verdict == "MISSED" for row in rows) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"benchmarks to run: {', '.join(NAMES)}; default: all. On request: {', '.join(ON_REQUEST)}",
    )
    parser.add_argument(
        "--full", dest="size", action="store_const", const=Size.FULL, help="run with the sizes of the promises"
    )
    parser.add_argument(
        "--tiny", dest="size", action="store_const", const=Size.TINY, help="only check that the benchmarks work"
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="write a chart of the figures that have a target, as SVG"
    )
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="write the table and the picture of both lanes (`batch`)"
    )
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="profile the bridges' event loops with cProfile")
    parser.add_argument("--rates", type=int, nargs="+", default=(), metavar="N", help="only these ends a second of day")
    parser.set_defaults(size=Size.SMALL)
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - {*NAMES, *ON_REQUEST}:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
