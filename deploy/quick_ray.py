"""Quick import of Ray, without packages that it needs only on other machines or for what is not asked here.

Ray asks Google's machines for their TPUs with `requests`, and checks plugins of runtime environments with
`jsonschema`. The two take a third of its import.
"""

from common.later import put_off

_TRIED = ("2.60.",)  # versions of Ray


def put_off_rarely_used() -> None:
    """Put off what Ray imports at its top and seldom uses; call it before the first `import ray`."""
    put_off("requests", "jsonschema")


def is_tried(version: str) -> bool:
    """Return True for a version of Ray whose private names we know."""
    return version.startswith(_TRIED)
