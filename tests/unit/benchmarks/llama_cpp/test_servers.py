import sys
from pathlib import Path

import pytest

from benchmarks.llama_cpp import servers
from benchmarks.load_generator import run_work
from benchmarks.workload import Work

# what llama.cpp's server does at a start: it listens, is not ready, then is
_SERVER = """
import http.server, pathlib, sys
started = pathlib.Path(sys.argv[0] + ".started")

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if started.exists() else 503)
        self.end_headers()
        started.touch()

    def do_POST(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'data: {"choices": [{"finish_reason": "length"}]}\\n\\n')

port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def program(path: Path, source: str) -> Path:
    """Return a program of this source."""
    path.write_text(f"#!{sys.executable}\n{source}")
    path.chmod(0o755)
    return path


async def test_llama_server_is_used_once_it_has_loaded_the_model(tmp_path: Path) -> None:
    binary = program(tmp_path / "server", _SERVER)
    async with servers.llama_server(binary, 16, tmp_path / "model.gguf") as target:
        assert Path(f"{binary}.started").exists()
        record = await run_work(target, Work((1, 2), output_tokens=3))
    assert len(record.token_times_s) == 1


async def test_a_server_that_ends_at_its_start_says_why(tmp_path: Path) -> None:
    binary = program(tmp_path / "server", "raise SystemExit('no tensor\\nfile is too short')")
    with pytest.raises(RuntimeError, match=r"server ended with 1: file is too short$"):
        async with servers.llama_server(binary, 16, tmp_path / "model.gguf"):
            pass


async def test_versions_are_what_the_peers_say(tmp_path: Path) -> None:
    says = "import sys; print(sys.argv[1:]); print('built with')"
    binary = program(tmp_path / "server", says)
    assert await servers.llama_server_version(binary) == "['--version']"
    failing = program(tmp_path / "python", "raise SystemExit(3)")
    with pytest.raises(RuntimeError, match="python ended with 3"):
        await servers.llama_cpp_python_version(failing)
