"""Helpers for the tests of callback targets."""

import pytest

from bridge.core.errors import InvalidRequest, TargetRefused
from bridge.core.targets import TargetPolicy, parse_target

ANY = TargetPolicy()


def refusal_of(url: str, policy: TargetPolicy = ANY) -> str:
    """Returns the message with which a URL is refused."""
    with pytest.raises(TargetRefused) as refused:
        parse_target(url, policy)
    return str(refused.value)


def malformed(url: str) -> str:
    """Returns the rule that a malformed URL breaks."""
    with pytest.raises(InvalidRequest) as invalid:
        parse_target(url, ANY)
    [(field, rule)] = invalid.value.fields
    assert field == "callback_url"
    return rule
