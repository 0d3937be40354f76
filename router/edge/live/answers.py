"""HTTP answers of the live page, with the headers that keep it harmless."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

# no inline script or style, nothing from elsewhere, no frame around it, no text that becomes HTML
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = (
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: a whole body of bytes, or an iterator that makes it piece by piece."""

    status: str
    content_type: str
    body: bytes | Iterable[bytes]
    more_headers: tuple[tuple[str, str], ...] = field(default=())

    def headers(self) -> list[tuple[str, str]]:
        """Return all headers; a whole body has its length."""
        found = [("Content-Type", self.content_type), *_HEADERS, *self.more_headers]
        if isinstance(self.body, bytes):
            found.append(("Content-Length", str(len(self.body))))
        return found


def problem(status: str, reason: str, message: str, *headers: tuple[str, str]) -> Answer:
    """Return an error as JSON, with a reason of docs/use/errors.md and a line to read."""
    body = json.dumps({"error": {"reason": reason, "message": message}}) + "\n"
    return Answer(status, JSON, body.encode(), headers)
