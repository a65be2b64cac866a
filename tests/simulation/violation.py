"""How an invariant that does not hold is reported."""


class Violation(AssertionError):
    """An invariant does not hold."""


def require(holds: object, text: str) -> None:
    """Raise Violation unless the condition holds."""
    if not holds:
        raise Violation(text)
