"""Private Rays that start quickly, without processes that only a dashboard or a cluster needs.

Ray starts seven processes of its own, one after another. The API server, the autoscaler's monitor and
the log monitor do nothing for workers whose output is ours. Two agents are needed. But the raylet need
not wait for them, and they need not take the cores that workers start on.

Ray has no public switches for that, so private names are replaced while it starts. Only the versions
that this was tried with are treated like that; any other starts as it always does.
"""

import contextlib
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray._private import node as ray_node
from ray._private import services as ray_services

from deploy.quick_ray import is_tried

_LATER = ["nice", "-n", "19"]
_END_WITH_PARENT = ["setpriv", "--pdeathsig", "KILL"]  # of util-linux
_AGENT_COMMAND = "_build_python_executable_command_memory_profileable"
_PRESTART = ("--num_prestart_python_workers", "--maximum_startup_concurrency")
_WORKER_SETUP = Path(__file__).with_name("ray_worker_setup.py")
_raylet: Any = ray._raylet  # its type stubs are incomplete
_NOT_SERVED = -1  # an agent's word for a port that it does not open


@contextlib.contextmanager
def quick_start(num_processes: int) -> Iterator[None]:
    """Have a Ray that is started inside start quickly, if its version is known.

    It begins so many processes for actors at once, where Ray itself would begin one for each CPU.
    """
    if not is_tried(ray.__version__):
        yield
        return
    node, agent_command = ray_node.Node, getattr(ray_services, _AGENT_COMMAND)
    start_process = ray_services.start_ray_process
    ray_node.Node = _QuickNode
    setattr(ray_services, _AGENT_COMMAND, _at_low_priority(agent_command))
    ray_services.start_ray_process = _with_prestarted(num_processes, start_process)
    try:
        yield
    finally:
        ray_node.Node = node
        setattr(ray_services, _AGENT_COMMAND, agent_command)
        ray_services.start_ray_process = start_process


class _QuickNode(ray_node.Node):  # type: ignore[misc]  # Ray has no types
    def __init__(self, ray_params: "ray_node.RayParams", **options: object) -> None:
        ray_params.runtime_env_agent_port = _free_port()
        ray_params.setup_worker_path = str(_WORKER_SETUP)
        super().__init__(ray_params, **options)

    def start_api_server(self, **_options: object) -> None:
        self._webui_url = ""

    def start_monitor(self) -> None:
        pass

    def start_log_monitor(self) -> None:
        pass

    def start_raylet(self, *arguments: object, **options: object) -> None:
        # the raylet waits for these files; the agents write them again when they have started
        ports = {
            _raylet.RUNTIME_ENV_AGENT_PORT_NAME: self._ray_params.runtime_env_agent_port,
            _raylet.METRICS_AGENT_PORT_NAME: _NOT_SERVED,
            _raylet.METRICS_EXPORT_PORT_NAME: _NOT_SERVED,
            _raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME: _NOT_SERVED,
        }
        for name, port in ports.items():
            _raylet.persist_port(self._session_dir, self._node_id, name, port)
        super().start_raylet(*arguments, **options)


def _with_prestarted(num_processes: int, start: Callable[..., Any]) -> Callable[..., Any]:
    """Change the number of processes in the raylet's command, and let it begin them side by side."""
    changes = dict.fromkeys(_PRESTART, num_processes)

    def start_with(command: list[str], *arguments: object, **options: object) -> Any:
        parts = (part.partition("=") for part in command)
        changed = [f"{name}{equals}{changes.get(name, value)}" for name, equals, value in parts]
        return start(changed, *arguments, **options)

    return start_with


def _at_low_priority(build: Callable[..., list[str]]) -> Callable[..., list[str]]:
    # agents of a raylet that was killed would wait for its return, for a minute
    mortal = _END_WITH_PARENT if shutil.which(_END_WITH_PARENT[0]) else []
    return lambda *arguments, **options: [*mortal, *_LATER, *build(*arguments, **options)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
    return port
