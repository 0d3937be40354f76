"""TCP connections cut from outside, as a firewall does: both ends get a reset."""

import shutil
import socket
import subprocess
from collections.abc import Sequence


def cut_connections(addresses: Sequence[str]) -> None:
    """Reset every connection to these addresses of this machine. Raises OSError."""
    for address in addresses:
        host, _, port = address.rpartition(":")
        command = ["ss", "-K", "-tn", "dst", host, "dport", "=", f":{port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode:
            raise OSError(f"ss: {done.stderr.strip()}")


def can_cut() -> bool:
    """Try it on a connection of our own; return False where the system does not permit it."""
    if shutil.which("ss") is None:
        return False
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0] as accepted:
            try:
                cut_connections([f"127.0.0.1:{port}"])
                accepted.settimeout(1.0)
                return not accepted.recv(1)
            except TimeoutError:
                return False
            except OSError:
                return True
