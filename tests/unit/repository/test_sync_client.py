import pytest

from scripts.make_sync_client import RULES, source_of, target_of, to_sync


def source(name: str) -> str:
    return source_of(name).read_text("utf-8")


@pytest.mark.parametrize("name", RULES)
def test_the_committed_sync_client_is_what_the_async_one_generates(name: str) -> None:
    written = target_of(name).read_text("utf-8")
    assert to_sync(name, source(name)) == written, "run `make sync-client`"


def test_a_changed_async_client_would_be_seen() -> None:
    text = source("client")
    changed = text.replace("async def tokenize(", "async def tokens(")
    assert changed != text
    assert to_sync("client", changed) != target_of("client").read_text("utf-8")


@pytest.mark.parametrize("name", RULES)
def test_a_rule_that_replaces_nothing_is_an_error(name: str) -> None:
    text = source(name).replace("aclosing", "contextlib.aclose")
    with pytest.raises(ValueError, match="has no 'aclosing'"):
        to_sync(name, text)


@pytest.mark.parametrize("name", RULES)
def test_an_asynchronous_word_that_no_rule_knows_is_an_error(name: str) -> None:
    text = source(name) + "\n\nfirst = asyncio.FIRST_COMPLETED\n"
    with pytest.raises(ValueError, match="asynchronous is left"):
        to_sync(name, text)
