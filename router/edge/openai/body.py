"""A request's body: read within a time and a size, and taken as JSON by the letter of the standard."""

import asyncio
import json
from typing import NoReturn

from starlette.requests import Request

from pdserve.errors import InvalidRequestError
from router.edge.openai.errors import HttpError

MAX_BODY_BYTES = 8 * 2**20
READ_TIMEOUT_S = 30.0
_MAX_DEPTH = 64
_JSON_TYPES = {"application/json", ""}


async def read_json(request: Request) -> object:
    """Return the body as JSON. Raises HttpError or InvalidRequestError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _JSON_TYPES and not kind.endswith("+json"):
        raise HttpError(415, "unsupported_media_type", "send Content-Type: application/json")
    return parse_json(await _read(request))


async def _read(request: Request) -> bytes:
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
        raise _too_large()
    parts, size = [], 0
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise _too_large()
    except TimeoutError:
        message = f"the body was not complete within {READ_TIMEOUT_S:.0f} s"
        raise HttpError(408, "request_timeout", message) from None
    return b"".join(parts)


def parse_json(body: bytes) -> object:
    """Return what the bytes say. Refuses repeated keys, NaN, half surrogates and deep nesting.

    Raises InvalidRequestError.
    """
    try:
        text = body.decode("utf-8")
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        if "\\u" in text:
            json.dumps(data, ensure_ascii=False).encode("utf-8")
        _check_depth(data)
    except RecursionError:
        raise _too_deep() from None
    except UnicodeEncodeError:
        raise InvalidRequestError("a string holds half a surrogate pair", field="body") from None
    except UnicodeDecodeError:
        raise InvalidRequestError("is not UTF-8 text", field="body") from None
    except ValueError as error:
        raise InvalidRequestError(f"is no JSON: {error}"[:200], field="body") from None
    return data


def _check_depth(data: object) -> None:
    level, depth = [data], 0
    while level:
        inner = [v for v in level if isinstance(v, dict | list)]
        level = [v for c in inner for v in (c.values() if isinstance(c, dict) else c)]
        depth += bool(inner)
        if depth > _MAX_DEPTH:
            raise _too_deep()


def _too_deep() -> InvalidRequestError:
    return InvalidRequestError(f"is nested more than {_MAX_DEPTH} deep", field="body")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _too_large() -> HttpError:
    return HttpError(413, "body_too_large", f"the body has more than {MAX_BODY_BYTES} bytes")
