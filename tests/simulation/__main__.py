"""`python -m tests.simulation --seeds A:B [--jobs N]`: runs seeds, and prints and shrinks the first that fails."""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from functools import partial

from tests.simulation.mutations import MUTATIONS
from tests.simulation.planting import plant

SEEDS_OF_A_PROCESS = 250  # libraries keep some objects of each seed, so the memory of a process grows


def main() -> int:
    """Run the seeds. Returns 1 if one of them fails."""
    arguments = _arguments()
    if arguments.plant is not None:
        [mutation] = [one for one in MUTATIONS if one.name == arguments.plant]
        plant(mutation)
    first, _, last = arguments.seeds.partition(":")
    seeds = range(int(first), int(last or int(first) + 1))
    chunks = [seeds[at : at + SEEDS_OF_A_PROCESS] for at in range(0, len(seeds), SEEDS_OF_A_PROCESS)]
    began, done, failed = time.monotonic(), 0, list[int]()
    for count, failures in _results(chunks, arguments.jobs, stop=not arguments.keep_going):
        done += count
        for seed, failure in failures:
            print(f"seed {seed}: {failure}", flush=True)
            failed.append(seed)
        if failed and not arguments.keep_going:
            break
        if done % 1_000 == 0:
            print(f"{done} seeds, {len(failed)} failed, {time.monotonic() - began:.0f} s", flush=True)
    if failed and not arguments.keep_going:
        _show(failed[0], shrink=not arguments.no_shrinking)
    print(f"{done} seeds in {time.monotonic() - began:.0f} s, failed: {failed or 'none'}")
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("--seeds", required=True, metavar="A:B", help="from A to B, without B; or one seed")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes")
    parser.add_argument(
        "--keep-going", action="store_true", help="do not stop at a seed that fails, and do not show it"
    )
    parser.add_argument("--no-shrinking", action="store_true", help="show a failing seed as it is")
    parser.add_argument("--plant", choices=[one.name for one in MUTATIONS], help="run with a planted bug")
    parser.add_argument("--trace", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _results(chunks: list[range], jobs: int, *, stop: bool) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        yield from pool.imap(partial(_run_chunk, stop=stop), chunks)


def _run_chunk(seeds: range, *, stop: bool) -> tuple[int, list[tuple[int, str]]]:
    """Run seeds; with `stop`, only up to the first that fails. Returns how many ran, and which of them failed."""
    from tests.simulation.runner import folder, run_seed

    done, failures = 0, []
    with folder() as place:
        for seed in seeds:
            failure = run_seed(seed, place).failure
            done += 1
            if failure is not None:
                failures.append((seed, failure))
                if stop:
                    break
    return done, failures


def _show(seed: int, *, shrink: bool) -> None:
    from tests.simulation.plan import make_plan
    from tests.simulation.runner import folder, run_plan, shrunk

    with folder() as place:
        plan = make_plan(seed)
        if shrink:
            plan = shrunk(plan, place)
        outcome = run_plan(plan, place)
    print(f"\nseed {seed}, the shortest plan that fails:" if shrink else f"\nseed {seed}:")
    for name in (one.name for one in fields(plan) if one.name not in {"seed", "courses", "inherited", "actions"}):
        print(f"  {name} = {getattr(plan, name)!r}")
    for one in (*plan.courses, *plan.inherited):
        print(f"  {one}")
    for action in plan.actions:
        print(f"  {action}")
    print("\ntrace:")
    print("\n".join(outcome.trace))
    print(f"\n{outcome.failure}")


if __name__ == "__main__":
    sys.exit(main())
