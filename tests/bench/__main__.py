"""`python tests/bench [NAME ...] [--full] [--picture FILE]`: the bridge beside the least that its parts can do.

Small by default: all of it in about six minutes. Trust CPU times and ratios; wall clocks are those of this machine
and of whoever shares it.
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

from tests.bench.picture import picture
from tests.bench.processes import LOADING
from tests.bench.stage import Size, Stage
from tests.bench.table import Row, table

NAMES = ("polls", "registrations", "deliveries", "memory", "flat", "spread", "replicas", "cost")


def main() -> int:
    """Run what is asked for; 0 when every target holds."""
    given = _arguments()
    os.sched_setaffinity(0, {LOADING})
    began = time.monotonic()
    if given.profile is not None:
        given.profile.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {text}", file=sys.stderr, flush=True)

    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as folder:
        stage = Stage(Path(folder), given.size, say, given.profile)
        modules = [importlib.import_module(f"tests.bench.{name}") for name in given.names or NAMES]
        gc.collect()
        gc.freeze()  # what is here now is every child's: it need not be copied because a collector looked at it
        for module in modules:
            for row in module.run(stage):
                say("  ".join(filter(None, row.cells())))
                rows.append(row)
    print(table(rows))
    if given.picture is not None:
        given.picture.write_text(picture(rows))
    return 1 if any(row.verdict == "MISSED" for row in rows) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which benchmarks, of {', '.join(NAMES)}: else all")
    parser.add_argument("--full", dest="size", action="store_const", const=Size.FULL, help="with the promise's numbers")
    parser.add_argument("--tiny", dest="size", action="store_const", const=Size.TINY, help="only to see that it works")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the figures that have a target, as SVG")
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="have cProfile watch the bridges' event loops")
    parser.set_defaults(size=Size.SMALL)
    given = parser.parse_args()
    if strange := set(given.names) - set(NAMES):
        parser.error(f"no benchmark is called {', '.join(sorted(strange))}")
    return given


if __name__ == "__main__":
    sys.exit(main())
