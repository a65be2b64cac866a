"""The garbage collector is off in a block and on again after it, unless it was off before."""

import gc

import pytest

from bridge.aio.collector import collector_off


@pytest.mark.parametrize("was_on", [True, False])
def test_after_the_block_the_collector_is_as_before(*, was_on: bool) -> None:
    if not was_on:
        gc.disable()
    try:
        with pytest.raises(ZeroDivisionError), collector_off():
            assert not gc.isenabled()
            raise ZeroDivisionError
        assert gc.isenabled() == was_on
    finally:
        gc.enable()
