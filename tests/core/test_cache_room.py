"""Which files are removed to make room in a cache."""

from hypothesis import given
from hypothesis import strategies as st

from bridge.core.cache_room import RESERVE_BYTES, CachedFile, Demand, Disk, files_to_remove

GIB = 1 << 30
ROOMY = Disk(free=90 * GIB, total=100 * GIB)


def cached(name: str, size: int, used_at: float, *, in_use: bool = False) -> CachedFile:
    return CachedFile(name, size, used_at, in_use)


def wanted(count: int, *, held: int = 0, unwritten: int = 0, limit: int = 100) -> Demand:
    return Demand(count, held, unwritten, limit)


OLD, NEW, READ = cached("old", 40, 1.0), cached("new", 40, 2.0), cached("read", 20, 0.0, in_use=True)


def test_nothing_is_removed_while_there_is_room() -> None:
    assert files_to_remove([OLD, NEW], wanted(20), ROOMY) == []


def test_the_least_recently_used_file_goes_first() -> None:
    assert files_to_remove([NEW, OLD], wanted(21), ROOMY) == ["old"]
    assert files_to_remove([NEW, OLD], wanted(61), ROOMY) == ["old", "new"]


def test_a_file_that_is_being_read_goes_last() -> None:
    assert files_to_remove([READ, OLD, NEW], wanted(80), ROOMY) == ["old", "new"]
    assert files_to_remove([READ, OLD, NEW], wanted(81), ROOMY) == ["old", "new", "read"]


def test_nothing_is_removed_for_a_file_that_does_not_fit_in_any_case() -> None:
    assert files_to_remove([OLD], wanted(101), ROOMY) is None
    assert files_to_remove([OLD], wanted(60, held=41), ROOMY) is None


def test_a_tenth_of_the_disk_and_256_mib_stay_free() -> None:
    for total, reserve in ((100 * GIB, 10 * GIB), (GIB, RESERVE_BYTES)):
        free = Disk(free=reserve + 50, total=total)
        assert files_to_remove([], wanted(50), free) == []
        assert files_to_remove([], wanted(51), free) is None
        assert files_to_remove([OLD], wanted(50), free) == []
        assert files_to_remove([OLD], wanted(51), free) == ["old"]
        assert files_to_remove([], wanted(20, held=40, unwritten=31), free) is None


def test_the_removal_of_a_file_that_is_being_read_frees_no_space_on_the_disk() -> None:
    full = Disk(free=RESERVE_BYTES, total=GIB)
    assert files_to_remove([READ], wanted(10), full) is None
    assert files_to_remove([READ, OLD], wanted(10), full) == ["old"]
    one_byte_short = Disk(free=RESERVE_BYTES + 89, total=GIB)
    assert files_to_remove([READ], wanted(90), one_byte_short) is None


@given(
    st.lists(st.tuples(st.integers(1, 50), st.floats(0, 9), st.booleans()), max_size=6),
    st.integers(0, 80),
    st.integers(0, 60),
    st.integers(0, 200),
)
def test_what_is_left_always_fits(rows: list[tuple[int, float, bool]], count: int, held: int, spare: int) -> None:
    files = [cached(str(number), *row[:2], in_use=row[2]) for number, row in enumerate(rows)]
    disk = Disk(free=RESERVE_BYTES + spare, total=GIB)
    chosen = files_to_remove(files, wanted(count, held=held), disk)
    idle = [file for file in files if not file.in_use]
    if chosen is None:
        assert count + held > 100 or count > spare + sum(file.size for file in idle)
    else:
        left = [file for file in files if file.name not in chosen]
        assert sum(file.size for file in left) + held + count <= max(100, held + count)
        assert count <= spare + sum(file.size for file in idle if file.name in chosen)
