import pytest

from scripts.make_sync_client import SOURCE, TARGET, to_sync


def test_the_committed_sync_client_is_what_the_async_one_generates() -> None:
    assert to_sync(SOURCE.read_text("utf-8")) == TARGET.read_text("utf-8"), "run `make sync-client`"


def test_a_changed_async_client_would_be_seen() -> None:
    text = SOURCE.read_text("utf-8")
    changed = text.replace("async def tokenize(", "async def tokens(")
    assert changed != text
    assert to_sync(changed) != TARGET.read_text("utf-8")


def test_a_rule_that_replaces_nothing_is_an_error() -> None:
    text = SOURCE.read_text("utf-8").replace("aclosing", "contextlib.aclose")
    with pytest.raises(ValueError, match="has no 'aclosing'"):
        to_sync(text)


def test_an_asynchronous_word_that_no_rule_knows_is_an_error() -> None:
    text = SOURCE.read_text("utf-8") + "\n\nsleep = asyncio.sleep\n"
    with pytest.raises(ValueError, match="asynchronous is left"):
        to_sync(text)
