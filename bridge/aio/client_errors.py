"""One mapping for the errors of aiohttp's client: a code for programs and a sentence for people.

aiohttp's own texts are not used: they repeat URLs and the names of Python classes.
"""

import os
import ssl

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from bridge.aio.proxy_connector import ProxyFailed
from bridge.aio.resources import shortage_in

# The errors of a request, or of reading its answer, that the other side or the network causes.
CLIENT_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError)


def explain_client_error(error: Exception, host: str, timeout_seconds: float) -> tuple[str, str]:
    """Returns the code of an error and a sentence that names `host` (as "name:port"), never a path or an address.

    The codes are `tls_failed`, `connection_failed`, `timeout`, `connection_lost` and `bad_answer`. `timeout_seconds` is
    the time limit of the request.
    """
    match error:
        case aiohttp.ClientConnectorCertificateError():
            code, message = "tls_failed", f"the certificate of {host} is not valid: {_reason(error.certificate_error)}"
        case aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            code, message = "tls_failed", f"TLS with {host} failed: {_reason(error)}"
        case aiohttp.ClientConnectorDNSError():
            code, message = "connection_failed", f"no connection to {host}: the name could not be resolved"
        case aiohttp.ClientConnectorError(os_error=ProxyFailed() as failed):
            code, message = "connection_failed", f"no connection to {host}: {failed}"
        case aiohttp.ClientConnectorError():
            code, message = "connection_failed", f"no connection to {host}: {_reason(error.os_error)}"
        case aiohttp.ConnectionTimeoutError():
            code, message = "connection_failed", f"no connection to {host}: it took too long"
        case TimeoutError():
            code, message = "timeout", f"{host} did not answer within {timeout_seconds:g} s"
        case aiohttp.ClientPayloadError():
            code, message = "connection_lost", f"the answer of {host} ended too early"
        case aiohttp.ClientConnectionError() | OSError():
            code, message = "connection_lost", f"{host} closed the connection without an answer"
        case _:
            code, message = "bad_answer", f"{host} did not answer with valid HTTP"
    return code, message


# Alerts of TLS that a server sends when a client certificate is missing or not accepted (RFC 8446, 6.2).
_CERTIFICATE_ALERTS = ("certificate_required", "handshake_failure", "bad_certificate", "unknown_ca", "access_denied")


def may_want_client_certificate(error: Exception) -> bool:
    """Returns whether `error` usually means that the server requires a client certificate.

    Call it only for an error on a new TLS connection.
    With TLS 1.3 the server checks the certificate after the client has finished the handshake, so the client sees a
    closed connection.
    """
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorDNSError():
            return False
        case aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            return any(alert in (_alert(error) or "") for alert in _CERTIFICATE_ALERTS)
        case aiohttp.ClientConnectorError():
            return isinstance(error.os_error, ConnectionResetError)
        case TimeoutError() | aiohttp.ClientPayloadError():
            return False
    return isinstance(error, (aiohttp.ClientConnectionError, OSError))


def _alert(error: Exception) -> str | None:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    reason = cause.reason if isinstance(cause, ssl.SSLError) else None
    return None if reason is None else reason.lower()


def _reason(error: Exception) -> str:
    """Returns the cause of an error without addresses, files or line numbers."""
    match error:
        case ssl.SSLCertVerificationError():
            return error.verify_message
        case aiohttp.ClientConnectorError():
            return _reason(error.os_error)
        case ssl.SSLError():
            return (error.reason or "protocol error").lower().replace("_", " ")
        case OSError() if shortage := shortage_in(error):
            return shortage
        case OSError(errno=int(number)) if number > 0:
            return os.strerror(number).lower()
        case _:
            return "it was closed"
