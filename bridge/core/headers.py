"""HTTP header names that several folders need."""

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
