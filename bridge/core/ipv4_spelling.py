"""Reads every spelling of an IPv4 address that `inet_aton` accepts, as the WHATWG URL standard does."""

from ipaddress import IPv4Address


def inet_aton(host: str) -> IPv4Address:
    """Reads an IPv4 address of 1 to 4 decimal, octal or hexadecimal numbers. The last one fills all remaining bytes.

    Raises ValueError with the rule.
    """
    try:
        *head, tail = [_number(part) for part in host.split(".")]
    except ValueError:
        raise ValueError("must have a valid host name") from None
    if len(head) > 3 or any(part > 0xFF for part in head) or tail >= 1 << 8 * (4 - len(head)):
        raise ValueError("must have a valid IPv4 address")
    value = tail
    for index, part in enumerate(head):
        value |= part << 8 * (3 - index)
    return IPv4Address(value)


def _number(text: str) -> int:
    if not text.isascii() or not text.isalnum() or len(text) > 64:
        raise ValueError(text)  # int() would accept signs, underscores and spaces
    if text.startswith("0x"):
        return int(text[2:] or "0", 16)
    return int(text, 8 if text.startswith("0") else 10)
