"""The hooks of the measured bridge."""

from bridge.service import jobs
from tests.bench.bridge_process import INTERVALS


def test_each_job_whose_interval_a_benchmark_may_set_has_a_constant() -> None:
    assert {name for name in INTERVALS if not hasattr(jobs, f"{name.upper()}_SECONDS")} == set()
