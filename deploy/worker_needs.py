"""Resources that a worker asks Ray for."""

import math
from collections.abc import Mapping

from common.config import ServeConfig
from common.messages import Role

Amounts = Mapping[str, float]

_PARTS = 10_000  # Ray counts resources in ten-thousandths


class WorkerNeeds:
    """Needs of a deployment's workers, by role. `offered` is what all nodes together have."""

    def __init__(self, config: ServeConfig, offered: Amounts) -> None:
        self._is_private = config.ray_address is None
        self._asks_for_role = not self._is_private and _asks_for_roles(config, offered)
        self.gpus = gpus_of_worker(config, offered.get("GPU", 0.0))

    def of(self, role: Role) -> dict[str, float]:
        """Return the amounts by resource; a private Ray's CPUs are not asked for, we share them."""
        needs = {} if self._is_private else {"CPU": 1.0}
        if self._asks_for_role:
            needs[str(role)] = 1.0
        if self.gpus:
            needs["GPU"] = self.gpus
        return needs


def gpus_of_worker(config: ServeConfig, num_gpus: float) -> float:
    """Return how many GPUs a worker asks for: 0, a part of one, or 1.

    On this machine all workers of the start share its GPUs evenly; in a cluster each gets one.
    """
    device, wanted = config.engine.device, config.cluster.gpus_per_worker
    is_private = config.ray_address is None
    if device == "cpu" or (not num_gpus and (is_private or device == "auto")):
        return 0.0  # a worker without a GPU refuses `cuda` itself
    if wanted is not None:
        return wanted
    per_gpu = math.ceil((config.prefill + config.decode) / num_gpus) if is_private else 1
    return 1.0 if per_gpu <= 1 else (_PARTS // per_gpu) / _PARTS


def _asks_for_roles(config: ServeConfig, offered: Amounts) -> bool:
    """Return True if workers are bound to nodes of their role.

    With `auto` one role's resource binds both: else decode would land on the nodes of prefill.
    """
    if config.cluster.roles != "auto":
        return config.cluster.roles == "on"
    return any(str(role) in offered for role in Role)
