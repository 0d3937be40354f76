import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common.engine.weights.folder import check_folder
from common.engine.weights.hub import fetch_from_hub
from common.engine.weights.progress import NoProgress
from pdserve.errors import SetupError

COMMIT = "a" * 40
NOBODY = "http://127.0.0.1:1"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"pickle",
    "consolidated.safetensors": b"copy",
    "original/model.safetensors": b"copy",
}


class FakeHub(BaseHTTPRequestHandler):
    """Part of the hub's HTTP interface that one fetch of org/name uses."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append((path, self.headers.get("Authorization")))  # type: ignore[attr-defined]
        names = list(FILES)
        if path.startswith("/api/models/org/name/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(FILES[name]), "oid": f"{i:040x}"}
                for i, name in enumerate(names)
            ]
            self._answer(json.dumps(tree).encode())
        elif path.startswith("/api/models/org/gated"):
            self.send_error(401)
        elif path.startswith("/api/models/org/name/revision/lost"):
            self.send_error(404)
        elif path.startswith("/api/models/org/name"):
            siblings = [{"rfilename": name, "size": len(FILES[name])} for name in names]
            info = {"id": "org/name", "sha": COMMIT, "siblings": siblings}
            self._answer(json.dumps(info).encode())
        elif path.startswith(f"/org/name/resolve/{COMMIT}/"):
            name = path.removeprefix(f"/org/name/resolve/{COMMIT}/")
            self._answer(FILES[name], ETag=f'"{names.index(name):040x}"')
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def _answer(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        for key, value in {"X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def asked() -> list[tuple[str, str | None]]:
    """Paths that were asked for, each with its authorization."""
    return []


@pytest.fixture
def hub(asked: list[tuple[str, str | None]]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeHub) as server:
        server.asked = asked  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_fetch_brings_the_safetensors_and_never_a_pickle(hub: str, tmp_path: Path) -> None:
    folder = fetch_from_hub("org/name", NoProgress(), endpoint=hub, hub_cache=tmp_path)
    check_folder(folder)
    names = {path.name for path in folder.rglob("*")}
    assert names == {"config.json", "tokenizer.json", "model.safetensors"}


class Bars:
    """Progress that keeps the stages and amounts."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None]] = []
        self.advanced = 0

    def stage(self, name: str, total: int | None) -> None:
        self.stages.append((name, total))

    def advance(self, amount: int) -> None:
        self.advanced += amount


def test_a_fetch_reports_the_bytes_that_it_brings(hub: str, tmp_path: Path) -> None:
    bars = Bars()
    fetch_from_hub("org/name", bars, endpoint=hub, hub_cache=tmp_path)
    wanted = sum(len(FILES[n]) for n in ("config.json", "tokenizer.json", "model.safetensors"))
    assert bars.stages == [("ask the hub for org/name", None), ("download org/name", wanted)]
    assert bars.advanced == wanted
    fetch_from_hub("org/name", bars, endpoint=hub, hub_cache=tmp_path)
    assert bars.advanced == wanted, "what was there already came again"


def test_an_earlier_copy_serves_when_the_hub_is_away(hub: str, tmp_path: Path) -> None:
    before = fetch_from_hub("org/name", NoProgress(), endpoint=hub, hub_cache=tmp_path)
    assert fetch_from_hub("org/name", NoProgress(), endpoint=NOBODY, hub_cache=tmp_path) == before


@pytest.mark.parametrize("away", [True, False])
def test_a_model_the_hub_does_not_give_is_one_line(hub: str, tmp_path: Path, away: bool) -> None:
    with pytest.raises(SetupError, match="there is no folder 'org/other' here") as caught:
        fetch_from_hub(
            "org/other", NoProgress(), endpoint=NOBODY if away else hub, hub_cache=tmp_path
        )
    assert "\n" not in str(caught.value)
    assert "give its folder" in caught.value.remedy


def test_a_revision_is_asked_for_by_its_name_and_one_that_is_not_there_is_named(
    hub: str, tmp_path: Path, asked: list[tuple[str, str | None]]
) -> None:
    folder = fetch_from_hub("org/name@v1.0", NoProgress(), endpoint=hub, hub_cache=tmp_path)
    check_folder(folder)
    assert asked[0][0] == "/api/models/org/name/revision/v1.0"
    again = fetch_from_hub("org/name@v1.0", NoProgress(), endpoint=NOBODY, hub_cache=tmp_path)
    assert again == folder
    with pytest.raises(SetupError, match="no folder 'org/name@lost' here"):
        fetch_from_hub("org/name@lost", NoProgress(), endpoint=hub, hub_cache=tmp_path)


def test_the_token_of_the_environment_is_sent(
    hub: str,
    tmp_path: Path,
    asked: list[tuple[str, str | None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch_from_hub("org/name", NoProgress(), endpoint=hub, hub_cache=tmp_path)
    assert {authorization for _, authorization in asked} == {"Bearer hf_secret"}
    with pytest.raises(SetupError, match="org/gated") as caught:
        fetch_from_hub("org/gated", NoProgress(), endpoint=hub, hub_cache=tmp_path)
    assert "HF_TOKEN" in caught.value.remedy
    assert "hf_secret" not in str(caught.value)
