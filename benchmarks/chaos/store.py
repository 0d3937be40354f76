"""Object store of a deployment's private Ray, asked from a process of its own.

Whoever starts the deployment gives it the token of its Ray, and so knows it.

An object is held while a process has a reference to it, or the store must keep it for its owner. Ray frees
it when the owner's last reference is gone: what a stream that was left half-read still has, every 10 s.

What a worker writes for a reader that has just died is held by nobody, and no reference to it ever ends.
Ray leaves it in the store, and evicts it when another object needs the room.
"""

import asyncio
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.chaos.fleet import Fleet

_WITHIN_S = 120.0
_FREE_WITHIN_S, _DELETED_WITHIN_S, _LOOK_S = 30.0, 3.0, 1.0
_INLINE_BYTES = 100 * 2**10  # smaller objects are in no store
_FOLDER = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class StoreUse:
    """Objects of a node's store."""

    num_objects: int
    num_held: int
    spilled_bytes: int  # since the start
    references: tuple[str, ...]  # of processes to its objects, in words


async def store_use(fleet: Fleet, ray_token: str, num_wanted: int | None = None) -> StoreUse:
    """Return the use of the fleet's store. Raises OSError, TimeoutError.

    Waits until no more objects than `num_wanted` are held, for `_FREE_WITHIN_S` at most.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, fleet.gcs_address()),
        *(() if num_wanted is None else (str(num_wanted),)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=_FOLDER,
        env=os.environ | auth(ray_token),
    )
    async with asyncio.timeout(_WITHIN_S):
        out, err = await process.communicate()
    if process.returncode:
        raise OSError(f"the object store is unknown: {err.decode().strip()[-500:]}")
    fields = json.loads(out)
    return StoreUse(**fields | {"references": tuple(fields["references"])})


def auth(ray_token: str) -> dict[str, str]:
    """Return the environment of a process that joins a Ray with this token."""
    return {"RAY_AUTH_TOKEN": ray_token, "RAY_AUTH_MODE": "token"}


def _main(address: str, num_wanted: int | None) -> None:
    import ray

    ray.init(address, log_to_driver=False, configure_logging=False)
    node = ray.nodes()[0]
    raylet = node["NodeManagerAddress"], node["NodeManagerPort"]
    begun_s = time.monotonic()
    while True:
        use, waited_s = _use(raylet), time.monotonic() - begun_s
        if num_wanted is None or use.num_objects <= num_wanted or waited_s > _FREE_WITHIN_S:
            break
        if use.num_held <= num_wanted and waited_s > _DELETED_WITHIN_S:
            break
        time.sleep(_LOOK_S)
    print(json.dumps(asdict(use)))


def _use(raylet: tuple[str, int]) -> StoreUse:
    from ray._private import internal_api  # no public name asks a raylet without a dashboard

    reply = internal_api.node_stats(*raylet)
    known = [
        (process.pid, ref)
        for process in reply.core_workers_stats
        for ref in process.object_refs
        if ref.object_size >= _INLINE_BYTES
    ]
    stats = reply.store_stats
    return StoreUse(
        stats.num_local_objects,
        max(stats.num_object_store_primary_copies, len({ref.object_id for _, ref in known})),
        stats.spilled_bytes_total,
        tuple(describe(*one) for one in known),
    )


def describe(pid: int, ref: Any) -> str:  # Ray's ObjectRefInfo
    """Return one process's reference to an object in words."""
    kinds = {
        "in use": ref.pinned_in_memory,
        f"{ref.local_ref_count} in Python": ref.local_ref_count,
        "of a task": ref.submitted_task_ref_count,
        "in another object": len(ref.contained_in_owned),
    }
    held = ", ".join(name for name, is_so in kinds.items() if is_so) or "none that counts"
    made = f", made at {ref.call_site}" if ref.call_site else ""
    return f"{ref.object_id.hex()} of {ref.object_size} bytes, at process {pid}: {held}{made}"


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None)
