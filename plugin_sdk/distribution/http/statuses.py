"""What a host's answer means when it is not the one hoped for."""

from __future__ import annotations

import json
import re
import time
from email.utils import parsedate_to_datetime

import urllib3

from plugin_sdk import errors
from plugin_sdk.distribution.http import connections
from plugin_sdk.distribution.http.connections import Failed

Answer = urllib3.BaseHTTPResponse

_BODY = 64 << 10  # bytes looked at of an error's body
_CODE = re.compile(r"[A-Z_]{1,40}")
_KINDS: dict[int, type[errors.Error]] = {
    400: errors.InvalidArgument,
    401: errors.Unauthenticated,
    403: errors.PermissionDenied,
    404: errors.NotFound,
    405: errors.Unimplemented,
    410: errors.NotFound,
    416: errors.OutOfRange,
    429: errors.ResourceExhausted,
    451: errors.PermissionDenied,
}
_AGAIN = (408, 425, 429)


def failed(answer: Answer) -> Failed:
    """Reads and closes an answer. Of its body only the specification's codes are told, no text of a stranger."""
    status = answer.status
    code = _code(answer)
    reason = f"it answers {status}" + (f" ({code.lower().replace('_', ' ')})" if code else "")
    kind = _KINDS.get(status, errors.Unavailable if status >= 500 else errors.Unknown)
    again = status in _AGAIN or status >= 500
    return Failed(reason, kind, again, retry_after(answer.headers.get("Retry-After")), code)


def _code(answer: Answer) -> str:
    try:
        found = json.loads(whole(answer, _BODY))["errors"][0]["code"]
    except (Failed, ValueError, KeyError, IndexError, TypeError):
        return ""
    return found if isinstance(found, str) and _CODE.fullmatch(found) else ""


def whole(answer: Answer, limit: int, kind: type[errors.Error] = errors.ResourceExhausted) -> bytes:
    """The body. Raises Failed when it is cut, and of that ``kind`` when it has more than ``limit`` bytes."""
    try:
        data = b""
        while len(data) <= limit and (chunk := answer.read(limit + 1 - len(data))):
            data += chunk
    except connections.TROUBLE as err:
        raise connections.failure(err) from None
    finally:
        answer.close()  # a connection whose answer is read to its end has been given back before
    if len(data) > limit:
        raise Failed(f"its answer has more than {limit} bytes", kind, again=False)
    return data


def retry_after(value: str | None) -> float | None:
    """Seconds of a ``Retry-After`` header, which has seconds or a date; None if it says neither."""
    if not value:
        return None
    if value.isascii() and value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
