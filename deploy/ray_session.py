"""Connection to Ray: a private one on this machine, or an existing cluster."""

import logging
import os
import secrets
import shutil
import socket
from pathlib import Path

import ray
from ray._private import worker as ray_worker
from ray._private.ray_constants import PROCESS_TYPE_GCS_SERVER, PROCESS_TYPE_RAYLET
from ray.exceptions import RayError
from ray.job_config import JobConfig

from common.config import ServeConfig
from common.machine import Memory, read_memory
from deploy import actors
from deploy.private_ray import quick_start
from deploy.ray_token import refuses_token
from deploy.template import count_processes
from pdserve.errors import SetupError

_MIB = 2**20
_VITAL = (PROCESS_TYPE_GCS_SERVER, PROCESS_TYPE_RAYLET)
_SHM = Path("/dev/shm")  # noqa: S108 - looked at only
_LISTENING_WITHIN_S = 5.0
_MIN_STORE_BYTES = 128 * _MIB
_CLIENT = "ray://"  # of Ray's client port, whose server starts the job itself
# words of Ray's errors for a client that has no token, or another one than the cluster's
_TOKEN_WORDS = ("authentication", "unauthenticated")


def start_ray(config: ServeConfig, num_cpus: int) -> bool:
    """Connect this process to Ray; return True if the Ray is private. Raises SetupError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning on CPUs
    _silence_ray()
    if config.ray_address is None:
        # Ray listens on all interfaces, and a client that it accepts can run code. A local Ray asks
        # for a token by default; without one in the environment it would write one to the home
        # folder, for every Ray.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        memory = read_memory()
        store_bytes = _store_bytes(config, memory)
        num_processes = count_processes(config)
        with quick_start(num_processes):
            _init(
                address="local",
                namespace=config.namespace,
                num_cpus=num_cpus,
                num_gpus=config.cluster.num_gpus,
                object_store_memory=store_bytes,
                # Ray reads only one memory cgroup, not those above or below it, and refuses to start
                # if that one is nearly full. Room for the workers is checked when they start.
                _memory=max(memory.available_bytes - store_bytes, _MIB),
                _system_config={
                    # Ray would run workers at nice 15; the machine is reserved for ours
                    "worker_niceness": 0,
                    # else Ray ends those that wait for a second for their work
                    "num_workers_soft_limit": num_processes,
                    # while they wait for it, they import what it needs
                    "preload_python_modules": [actors.__name__],
                },
            )
        return True
    _check_answer(config.ray_address)
    _init(address=config.ray_address, namespace=config.namespace)
    return False


def stop_ray() -> None:
    """Disconnect; a private Ray ends with all its processes."""
    ray.shutdown()


def lost_process() -> str:
    """Return the name of a process of a private Ray that has died; "" while Ray can go on."""
    node = ray_worker._global_node
    dead = node.dead_processes() if node is not None else []
    return next((name for name, _ in dead if name in _VITAL), "")


def head_address() -> str:
    """Return the host:port of the head of the cluster that this process has joined.

    Empty for a private Ray, and for Ray's client, which knows only its server.
    """
    node = ray_worker._global_node
    return "" if node is None or node.all_processes else str(node.gcs_address)


def kill_ray() -> None:
    """Kill a private Ray's processes; for one that lacks a process, which would not stop in time."""
    node = ray_worker._global_node
    if node is not None:
        node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)


def _store_bytes(config: ServeConfig, memory: Memory) -> int:
    """Return the store's size: `max_inflight_mib` for each worker's share, if memory allows."""
    transfer, num_workers = config.transfer, config.prefill + config.decode
    wanted = int(transfer.max_inflight_mib * _MIB * num_workers / transfer.store_share)
    # a store larger than shared memory would be placed on a disk
    shared = int(0.9 * shutil.disk_usage(_SHM).free) if _SHM.exists() else wanted
    return max(_MIN_STORE_BYTES, min(wanted, shared, memory.total_bytes // 4))


def _silence_ray() -> None:
    """Hide Ray's own messages about dead workers from this terminal; ours say more.

    Ray's error listener prints to stdout whatever `log_to_driver` says, and has no other switch.
    """
    ray_worker._worker_logs_enabled = False
    # calls whose results nobody waits for when a worker dies
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")


def _check_answer(address: str) -> None:
    """Raise SetupError if nobody listens there, or wants another token: Ray would try for a minute."""
    host, _, port = address.removeprefix(_CLIENT).rpartition(":")
    if not host or not port.isdigit():
        return  # a word of Ray's own, such as auto
    try:
        socket.create_connection((host.strip("[]"), int(port)), _LISTENING_WITHIN_S).close()
    except OSError as error:
        raise _no_answer(address, str(error)) from error
    if not address.startswith(_CLIENT) and refuses_token(address):
        raise _refused(address)


def _no_answer(address: object, reason: str) -> SetupError:
    return SetupError(
        f"Ray at '{address}' does not answer: {reason}",
        "check ray_address, or leave it out for a private Ray",
    )


def _refused(address: object) -> SetupError:
    has_token = os.environ.get("RAY_AUTH_MODE") == "token"
    lack = "the token here is missing or another one" if has_token else "none is sent from here"
    return SetupError(
        f"Ray at '{address}' wants its token: {lack}",
        "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to that cluster's token",
    )


def _init(**options: object) -> None:
    address = str(options["address"])
    if not address.startswith(_CLIENT):
        options["job_config"] = _job_without_current_folder()
    try:
        ray.init(
            include_dashboard=False if address == "local" else None,
            logging_level=logging.ERROR,
            log_to_driver=False,
            **options,
        )
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        if _is_about_token(error):
            raise _refused(address) from error
        first_line = str(error).strip().splitlines()[0]
        raise _no_answer(address, first_line) from error
    except OSError as error:  # its folder of sockets, for example, has too long a name
        first_line = str(error).strip().splitlines()[0]
        raise SetupError(
            f"Ray did not start: {first_line}",
            "set TMPDIR to a folder that has space and a short path",
        ) from error


def _job_without_current_folder() -> JobConfig:
    """Return a job whose workers do not import from the folder in which the command was typed.

    Ray puts that folder first on their path; a `common/` there would shadow ours. A job of Ray's
    client is exempt, and JobConfig has no other switch.
    """
    return JobConfig(_client_job=True)


def _is_about_token(error: BaseException | None) -> bool:
    """Return True if Ray, in the error or in what caused it, speaks of authentication."""
    while error is not None:
        if any(word in str(error).lower() for word in _TOKEN_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False
