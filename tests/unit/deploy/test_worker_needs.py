"""Resources that workers ask for, in a cluster and on this machine."""

import pytest

from common.config import ServeConfig
from common.messages import Role
from deploy.worker_needs import WorkerNeeds, gpus_of_worker

P, D = Role.PREFILL, Role.DECODE


def config(
    ray_address: str | None = "host:1", device: str = "auto", **cluster: object
) -> ServeConfig:
    values = {"ray_address": ray_address, "engine": {"device": device}, "cluster": cluster}
    return ServeConfig.model_validate(values)


def test_a_cluster_s_worker_asks_for_a_cpu_and_a_gpu_where_there_is_one() -> None:
    for device in ("auto", "cuda"):
        needs = WorkerNeeds(config(device=device), {"CPU": 8.0, "GPU": 2.0})
        assert needs.of(P) == needs.of(D) == {"CPU": 1.0, "GPU": 1.0}
    assert WorkerNeeds(config(), {"CPU": 8.0}).of(D) == {"CPU": 1.0}
    assert WorkerNeeds(config(device="cpu"), {"CPU": 8.0, "GPU": 2.0}).of(D) == {"CPU": 1.0}


def test_cuda_is_asked_for_also_where_no_node_has_it_yet() -> None:
    assert WorkerNeeds(config(device="cuda"), {"CPU": 8.0}).of(D) == {"CPU": 1.0, "GPU": 1.0}


def test_one_role_s_nodes_bind_both_roles() -> None:
    needs = WorkerNeeds(config(), {"CPU": 8.0, "prefill": 1.0})
    assert (needs.of(P), needs.of(D)) == ({"CPU": 1.0, "prefill": 1.0}, {"CPU": 1.0, "decode": 1.0})
    assert WorkerNeeds(config(roles="off"), {"prefill": 1.0}).of(D) == {"CPU": 1.0}
    assert WorkerNeeds(config(roles="on"), {}).of(D) == {"CPU": 1.0, "decode": 1.0}


def test_on_this_machine_a_worker_asks_for_gpus_alone() -> None:
    offered = {"CPU": 2.0, "GPU": 2.0, "prefill": 1.0}
    assert WorkerNeeds(config(None), offered).of(P) == {"GPU": 1.0}
    assert WorkerNeeds(config(None), {"CPU": 2.0}).of(P) == {}


@pytest.mark.parametrize(
    ("workers", "num_gpus", "share"),
    [((1, 1), 1, 0.5), ((1, 1), 2, 1.0), ((1, 1), 8, 1.0), ((1, 2), 1, 0.3333), ((1, 2), 2, 0.5)],
)
def test_workers_share_this_machine_s_gpus(
    workers: tuple[int, int], num_gpus: int, share: float
) -> None:
    served = config(None).model_copy(update={"prefill": workers[0], "decode": workers[1]})
    assert gpus_of_worker(served, num_gpus) == share
    assert sum(workers) * share <= num_gpus


def test_a_share_that_is_set_counts() -> None:
    assert gpus_of_worker(config(None, gpus_per_worker=0.25), 1) == 0.25
    assert gpus_of_worker(config(gpus_per_worker=0.5), 4) == 0.5
    assert gpus_of_worker(config(None, device="cpu", gpus_per_worker=0.5), 1) == 0
