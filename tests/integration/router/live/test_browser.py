"""The live page in headless Chromium: a router, scripted workers, and somebody who looks."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.config import SecurityConfig
from tests.integration.support.chromium import CHROMIUM, LACK, Browser, Page, chromium
from tests.integration.support.crowd import crowded
from tests.integration.support.guarded_router import ACME, OPS, guarded, issue, start
from tests.integration.support.router_stack import HOST
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.patience import WITHIN_S

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=LACK)
HOSTILE = "<img/src=x/onerror=alert(1)>"
ROWS = "#decode li:not(.leaving) button"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


async def look(browser: Browser, see: Callable[[Page], None]) -> Page:
    """Have a thread look at a new tab while the router goes on; return the tab, closed."""

    def in_tab() -> Page:
        with browser.page() as page:
            see(page)
        return page

    return await asyncio.wait_for(asyncio.to_thread(in_tab), WITHIN_S)


def run_on(loop: asyncio.AbstractEventLoop, work: Any) -> None:
    asyncio.run_coroutine_threadsafe(work, loop).result(WITHIN_S)


async def test_sequences_step_on_and_off_and_a_key_opens_a_waterfall(
    model_dir: Path, browser: Browser
) -> None:
    loop = asyncio.get_running_loop()
    async with crowded(model_dir) as (stack, crowd):

        def see(page: Page) -> None:
            page.prefer(prefers_reduced_motion="reduce")
            page.open(stack.http)
            page.until("document.querySelector('#status').dataset.state === 'live'")
            assert page.evaluate(f"document.querySelectorAll('{ROWS}').length") == 0
            run_on(loop, crowd.begin("first", "second", HOSTILE))
            page.until(f"document.querySelectorAll('{ROWS}').length === 3")
            assert page.evaluate("document.querySelectorAll('img, [onerror]').length") == 0
            assert HOSTILE in page.evaluate("document.querySelector('#decode').textContent")
            name = open_by_keyboard(page)
            run_on(loop, crowd.end(name))
            # the dialog shows the end of the request that it was opened for, without being asked
            page.until("document.querySelector('#facts').textContent.includes('whole')")
            assert page.evaluate("document.querySelector('#detail-title').textContent") == name
            assert page.until("document.querySelectorAll('#waterfall-rows tr').length")
            page.press("Escape")
            page.until("!document.querySelector('#detail').open")
            page.until("document.querySelectorAll('#ended button').length === 1")
            page.until(f"document.querySelectorAll('{ROWS}').length === 2")
            # the focus is in the list again, although the row that had it has gone
            page.until("document.activeElement.closest('#decode') !== null")
            for left in {"first", "second", HOSTILE} - {name}:
                run_on(loop, crowd.end(left))

        page = await look(browser, see)
        assert page.errors == []
        assert page.urls
        assert [url for url in page.urls if not url.startswith(f"{stack.http}/")] == []


def open_by_keyboard(page: Page) -> str:
    """Open the decode pool's second request without a pointer; return its id."""
    ids = page.evaluate(f"[...document.querySelectorAll('{ROWS}')].map((row) => row.dataset.id)")
    for _ in range(6):
        page.press("Tab")
        if page.evaluate("document.activeElement.closest('#decode') !== null"):
            break
    assert page.evaluate("document.activeElement.dataset.id") == ids[0]
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.id") == ids[1]
    page.press("Enter")
    page.until("document.querySelector('#detail').open")
    name: str = ids[1]
    return name


async def test_a_phone_and_the_dark_have_all_of_it_within_the_window(
    model_dir: Path, browser: Browser
) -> None:
    async with crowded(model_dir) as (stack, crowd):
        await crowd.begin("first", "second")

        def see(page: Page) -> None:
            page.resize(390, 844, is_phone=True)
            page.open(stack.http)
            page.until(f"document.querySelectorAll('{ROWS}').length === 2")
            assert page.evaluate("document.documentElement.scrollWidth") == 390
            heights = page.evaluate(
                f"[...document.querySelectorAll('{ROWS}')].map((row) => row.offsetHeight)"
            )
            assert min(heights) >= 24  # of WCAG's targets
            light = page.evaluate("getComputedStyle(document.body).backgroundColor")
            page.prefer(prefers_color_scheme="dark")
            dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert brightness(light) > 0.9
            assert brightness(dark) < 0.2
            for scheme in ("dark", "light"):
                page.prefer(prefers_color_scheme=scheme)
                assert page.evaluate(CONTRAST) >= 4.5, scheme

        page = await look(browser, see)
        assert page.errors == []
        await crowd.end("first")
        await crowd.end("second")


def brightness(colour: str) -> float:
    """Return 0 to 1 for "rgb(r, g, b)"."""
    parts = colour.partition("(")[2].rstrip(")").split(",")
    return sum(map(float, parts[:3])) / (3 * 255)


# the least contrast of a visible text to the background behind it, as WCAG counts it
CONTRAST = """(() => {
  const rgba = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map(
    (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4
  ).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const texts = [...document.querySelectorAll('body *')].filter((element) =>
    element.checkVisibility() && [...element.childNodes].some(
      (node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim()));
  return Math.min(...texts.map((element) => {
    const pair = [light(rgba(getComputedStyle(element).color)), light(behind(element))];
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  }));
})()"""


async def test_without_an_admin_s_token_there_is_a_form_and_no_data(
    model_dir: Path, tmp_path: Path, browser: Browser
) -> None:
    file = tmp_path / "access"
    tokens = issue(file, ACME, OPS)

    async with guarded(model_dir, ScriptedWorker(), SecurityConfig(access_file=file)) as router:
        await start(router)
        address = f"http://{HOST}:{router.http_port}/"

        def see(page: Page) -> None:
            page.open(address)
            page.until("document.activeElement.id === 'token'")
            assert page.evaluate("document.querySelector('#board').hidden")
            for wrong, expected in (
                ("wrong", "unknown or no longer valid"),
                ("wörng", "no token looks like that"),
                (tokens["acme"], "is for admins"),
            ):
                page.write(wrong)
                page.press("Enter")
                page.until(
                    f"document.querySelector('#login-problem').textContent.includes('{expected}')"
                )
                assert page.evaluate("document.querySelector('#board').hidden")
            page.write(tokens["ops"])
            page.press("Enter")
            page.until("!document.querySelector('#board').hidden")
            assert page.evaluate("document.querySelector('#login').hidden")
            assert page.evaluate("location.href") == address
            kept = page.evaluate(
                "Object.values(sessionStorage).concat(Object.values(localStorage))"
            )
            assert kept == [tokens["ops"]]
            assert "decode-0" in page.until("document.querySelector('#decode').textContent")

        page = await look(browser, see)
        assert [error for error in page.errors if "40" not in error] == []  # 401 and 403 are shown
        assert not [url for url in page.urls if tokens["ops"] in url]


async def test_a_lost_router_is_said_and_the_page_comes_back_by_itself(
    model_dir: Path, browser: Browser
) -> None:
    loop = asyncio.get_running_loop()
    async with crowded(model_dir) as (stack, _):
        pages = stack.router._live_pages
        assert pages is not None

        def see(page: Page) -> None:
            page.open(stack.http)
            page.until("document.querySelector('#status').dataset.state === 'live'")
            run_on(loop, pages._feed.stop())
            page.until("document.querySelector('#status').dataset.state === 'lost'")
            pages._feed._is_closed = False
            page.until("document.querySelector('#status').dataset.state === 'live'")

        page = await look(browser, see)
        assert [error for error in page.errors if "503" not in error] == []
