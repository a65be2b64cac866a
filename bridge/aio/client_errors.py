"""One mapping for the errors of aiohttp's client: a code for programs and a sentence for people.

aiohttp's own texts are not used: they repeat URLs and the names of Python classes.
"""

import os
import ssl

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

# What a request, or reading its answer, may raise for what the other side or the network does.
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


def _reason(error: Exception) -> str:
    """Returns the cause of an error without addresses, files or line numbers."""
    match error:
        case ssl.SSLCertVerificationError():
            return error.verify_message
        case aiohttp.ClientConnectorError():
            return _reason(error.os_error)
        case ssl.SSLError():
            return (error.reason or "protocol error").lower().replace("_", " ")
        case OSError(errno=int(number)) if number > 0:
            return os.strerror(number).lower()
        case _:
            return "it was closed"
