"""The page's own files: HTML, a style sheet, a script and an icon, which the wheel carries."""

from importlib.resources import files

from router.edge.live.answers import Answer

# path at the HTTP port: file beside this module, content type
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/live/live.css": ("live.css", "text/css; charset=utf-8"),
    "/live/live.js": ("live.js", "text/javascript; charset=utf-8"),
    "/live/icon.svg": ("icon.svg", "image/svg+xml"),
}


def read_assets() -> dict[str, Answer]:
    """Return the answer to each path. Raises FileNotFoundError where the package is broken."""
    folder = files(__package__)
    return {
        path: Answer("200 OK", content_type, (folder / name).read_bytes())
        for path, (name, content_type) in _FILES.items()
    }
