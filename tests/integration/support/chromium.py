"""A headless Chromium, driven by its DevTools protocol over two pipes."""

import base64
import contextlib
import fcntl
import itertools
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.patience import WITHIN_S

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LACK = "no chromium on PATH (Debian: apt-get install chromium): the live page is not looked at"
_READ_FD, _WRITE_FD = 3, 4  # where Chromium expects the pipes
_SAFE_FD = 64  # beyond those, so that no pipe is overwritten
_FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # a sandbox needs another user than root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
)
_KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowUp": 38, "ArrowDown": 40}


@dataclass(slots=True)
class Page:
    """A tab, and what it said and asked for."""

    browser: "Browser"
    session: str
    errors: list[str] = field(default_factory=list)  # of the console
    urls: list[str] = field(default_factory=list)  # that were requested

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call a method of the DevTools protocol; return its result."""
        return self.browser.call(method, self.session, **parameters)

    def open(self, url: str) -> None:
        """Go to an address."""
        self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript, or that of its promise."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def until(self, expression: str) -> Any:
        """Return the expression's value once it is true; it is looked at before each repaint."""
        return self.evaluate(
            "new Promise((done) => { const look = () => { let value = null;"
            f" try {{ value = ({expression}); }} catch {{}}"
            " value ? done(value) : requestAnimationFrame(look); }; look(); })"
        )

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        code = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    def write(self, text: str) -> None:
        """Type a text into what has the focus."""
        self.call("Input.insertText", text=text)

    def resize(self, width: int, height: int, *, is_phone: bool = False) -> None:
        """Give the window another size."""
        scale = 2 if is_phone else 1
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=is_phone,
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=is_phone)

    def prefer(self, **features: str) -> None:
        """Set what the user prefers, such as prefers_color_scheme="dark"."""
        named = [
            {"name": name.replace("_", "-"), "value": value} for name, value in features.items()
        ]
        self.call("Emulation.setEmulatedMedia", features=named)

    def picture(self) -> bytes:
        """Return the window as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


class Browser:
    """A running Chromium. Its calls block, with a deadline."""

    def __init__(self, pid: int, to_it: int, from_it: int) -> None:
        self._pid = pid
        self._to_it, self._from_it = to_it, from_it
        self._numbers = itertools.count(1)
        self._answers: dict[int, Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def call(self, method: str, session: str = "", **parameters: object) -> dict[str, Any]:
        """Call a method of the DevTools protocol; return its result."""
        number = next(self._numbers)
        message: dict[str, object] = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        answer = self._answers[number] = Future()
        os.write(self._to_it, json.dumps(message).encode() + b"\0")
        return answer.result(WITHIN_S)

    @contextlib.contextmanager
    def page(self) -> Iterator[Page]:
        """Yield a new tab with a profile of its own: nothing is remembered from others."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = self._pages[attached["sessionId"]] = Page(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        try:
            yield page
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=context)

    def end(self) -> None:
        """End the process, and wait for it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._to_it)

    def _read(self) -> None:
        rest = b""
        while data := os.read(self._from_it, 1 << 20):
            *messages, rest = (rest + data).split(b"\0")
            for message in messages:
                self._take(json.loads(message))
        os.close(self._from_it)
        for answer in self._answers.values():
            answer.set_exception(RuntimeError("chromium ended"))

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            answer = self._answers.pop(message["id"])
            if "error" in message:
                answer.set_exception(RuntimeError(str(message["error"])))
            else:
                answer.set_result(message["result"])
        elif page := self._pages.get(message.get("sessionId", "")):
            _note(page, message["method"], message["params"])


def _note(page: Page, event: str, parameters: dict[str, Any]) -> None:
    if event == "Network.requestWillBeSent":
        page.urls.append(parameters["request"]["url"])
    elif event == "Runtime.exceptionThrown":
        page.errors.append(str(parameters["exceptionDetails"]))
    elif event == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
        page.errors.append(str(parameters["args"]))
    elif event == "Log.entryAdded" and parameters["entry"]["level"] == "error":
        page.errors.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Yield a browser that keeps its files in the folder."""
    assert CHROMIUM is not None
    its_input, to_it = os.pipe()
    from_it, its_output = os.pipe()
    ends = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _SAFE_FD) for fd in (its_input, its_output)]
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
    actions = [
        (os.POSIX_SPAWN_DUP2, log, 1),
        (os.POSIX_SPAWN_DUP2, log, 2),
        (os.POSIX_SPAWN_DUP2, ends[0], _READ_FD),
        (os.POSIX_SPAWN_DUP2, ends[1], _WRITE_FD),
    ]
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    pid = os.posix_spawn(CHROMIUM, command, os.environ, file_actions=actions)
    for fd in (its_input, its_output, *ends, log):
        os.close(fd)
    browser = Browser(pid, to_it, from_it)
    try:
        yield browser
    finally:
        browser.end()
