"""HTTP headers: names that several folders need, and values as bytes."""

# Headers of one connection, which a proxy must not forward: RFC 9110, 7.6.1, and the older ones that it replaced.
HOP_BY_HOP = frozenset(
    {
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def header_bytes(text: str) -> bytes:
    """Returns a header's text as bytes; this never raises. Parsers decode bytes that are not UTF-8 as surrogates."""
    return text.encode(errors="surrogatepass")
