from pathlib import Path

import pytest

from common.cache_dir import default_cache_dir


@pytest.mark.parametrize(("value", "expected"), [("/x", "/x"), ("relative", "/home/me/.cache")])
def test_the_cache_follows_xdg_unless_it_is_relative(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert default_cache_dir() == Path(expected) / "pdserve" / "models"
