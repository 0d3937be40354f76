"""Object store of a deployment's private Ray, asked from a process of its own.

Whoever starts the deployment gives it the token of its Ray, and so knows it.
"""

import asyncio
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.chaos.fleet import Fleet

_WITHIN_S = 120.0
_FREE_WITHIN_S, _LOOK_S = 10.0, 0.5
_FOLDER = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class StoreUse:
    """Objects of a node's store."""

    num_objects: int
    used_bytes: int
    spilled_bytes: int  # since the start


async def store_use(fleet: Fleet, ray_token: str, num_wanted: int | None = None) -> StoreUse:
    """Return the use of the fleet's store. Raises OSError, TimeoutError.

    Waits until it has no more objects than `num_wanted`, but not long: Ray deletes those that are
    free only once a second.
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
    return StoreUse(**json.loads(out))


def auth(ray_token: str) -> dict[str, str]:
    """Return the environment of a process that joins a Ray with this token."""
    return {"RAY_AUTH_TOKEN": ray_token, "RAY_AUTH_MODE": "token"}


def _main(address: str, num_wanted: int | None) -> None:
    import ray

    ray.init(address, log_to_driver=False, configure_logging=False)
    node = ray.nodes()[0]
    raylet = node["NodeManagerAddress"], node["NodeManagerPort"]
    use, deadline_s = _use(raylet), time.monotonic() + _FREE_WITHIN_S
    while num_wanted is not None and use.num_objects > num_wanted:
        if time.monotonic() > deadline_s:
            break
        time.sleep(_LOOK_S)
        use = _use(raylet)
    print(json.dumps(asdict(use)))


def _use(raylet: tuple[str, int]) -> StoreUse:
    from ray._private import internal_api  # no public name asks a raylet without a dashboard

    stats = internal_api.node_stats(*raylet).store_stats
    return StoreUse(
        stats.num_local_objects, stats.object_store_bytes_used, stats.spilled_bytes_total
    )


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None)
