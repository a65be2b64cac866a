"""Helpers for the tests of callback targets."""

import pytest

from bridge.core.errors import InvalidRequest, TargetRefused
from bridge.core.targets import TargetPolicy, parse_target

ANY = TargetPolicy()


def refusal_of(url: str, policy: TargetPolicy = ANY) -> str:
    """The message of the refusal of a URL."""
    with pytest.raises(TargetRefused) as refused:
        parse_target(url, policy)
    return str(refused.value)


def malformed(url: str) -> str:
    """The rule that a malformed URL breaks."""
    with pytest.raises(InvalidRequest) as invalid:
        parse_target(url, ANY)
    [(field, rule)] = invalid.value.fields
    assert field == "callback_url"
    return rule
