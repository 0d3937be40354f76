"""Decode worker in a network namespace of its own: `unshare -n python -m tests.faults.far_worker FOLDER`.

It is told what to do by lines on stdin, and answers each with one line.
"""

import os
import subprocess
import sys
from pathlib import Path

from common.config import WorkerSpec
from common.kv_transfer.in_process import InProcessTransport
from common.rpc.worker_host import WorkerHost
from common.telemetry.logs import configure_logs
from common.worker.host import build_host
from decode_worker.worker import make_decode_worker
from tests.patience import WITHIN_S
from tests.unit.common.engine.tiny_models import engine_config

NEAR, FAR, FAR_LINK = "10.77.0.1", "10.77.0.2", "pdfar"


def ip(*words: str) -> None:
    """Run the command `ip` in this process's namespace."""
    subprocess.run(["ip", *words], check=True, timeout=WITHIN_S)


def crash(error: BaseException) -> None:
    """End the process, as a worker whose engine is broken does."""
    print(error, file=sys.stderr)
    os._exit(1)


def main(folder: Path) -> None:
    """Serve a worker; end with stdin."""
    configure_logs(process="worker")  # to stderr
    commands = (line.strip() for line in sys.stdin)
    print(os.getpid(), flush=True)
    assert next(commands) == "serve"  # the link is in this namespace now
    ip("link", "set", "lo", "up")
    ip("addr", "add", f"{FAR}/24", "dev", FAR_LINK)
    ip("link", "set", FAR_LINK, "up")
    spec = WorkerSpec.model_validate(
        {
            "name": "decode-0",
            "role": "decode",
            "model_dir": folder,
            "model_name": "tiny",
            "namespace": "far",
            "bind_host": FAR,
            "num_threads": 1,
            "engine": engine_config(num_blocks=600),
        }
    )
    worker = make_decode_worker(spec, build_host(spec, crash), InProcessTransport({}))
    worker.start()
    host = WorkerHost(worker, FAR)
    print(host.start(), flush=True)
    for command in commands:
        ip("route", "add" if command == "drop" else "del", "blackhole", f"{NEAR}/32")
        print("done", flush=True)
    host.stop(WITHIN_S)
    worker.stop(WITHIN_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
