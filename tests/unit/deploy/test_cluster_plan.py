"""Places of workers on nodes, and the words for what is missing."""

from collections.abc import Mapping

from common.messages import Role
from deploy.cluster_plan import Lack, NodeRoom, Wanted, describe_busy, find_lack, plan_places

P, D = Role.PREFILL, Role.DECODE
GPU = {"CPU": 1.0, "GPU": 1.0}


def node(name: str, num_workers: Mapping[Role, int] | None = None, **total: float) -> NodeRoom:
    return NodeRoom(name, total, total, num_workers or {})


def wanted(*roles: Role, binds: bool = False) -> list[Wanted]:
    return [Wanted(role, {**GPU, str(role): 1.0} if binds else GPU) for role in roles]


TWO_OF_TWO = [node("a", CPU=8, GPU=2), node("b", CPU=8, GPU=2)]


def test_workers_of_a_role_are_spread() -> None:
    assert plan_places(wanted(D, D), TWO_OF_TWO, "spread") == ["a", "b"]
    assert plan_places(wanted(P, P, D, D), TWO_OF_TWO, "spread") == ["a", "b", "a", "b"]
    eight = [node("a", CPU=8, GPU=8), node("b", CPU=8, GPU=8)]
    assert sorted(plan_places(wanted(*[D] * 6), eight, "spread")) == ["a"] * 3 + ["b"] * 3


def test_a_new_worker_goes_where_the_fewest_of_its_role_are() -> None:
    nodes = [node("a", {D: 1}, CPU=8, GPU=2), node("b", {P: 1}, CPU=8, GPU=2)]
    assert plan_places(wanted(D), nodes, "spread") == ["b"]
    assert plan_places(wanted(P), nodes, "spread") == ["a"]


def test_a_pair_shares_a_node_where_there_is_room() -> None:
    nodes = [node("a", CPU=8, GPU=1), node("b", CPU=8, GPU=2), node("c", CPU=8, GPU=1)]
    assert plan_places(wanted(P, D), nodes[1:], "pair") == ["b", "b"]
    assert plan_places(wanted(P, D), nodes[1:], "spread") == ["c", "b"]
    assert plan_places(wanted(P, D, D, D), nodes, "pair") == ["b", "a", "b", "c"]
    assert plan_places(wanted(P, P, D, D), TWO_OF_TWO, "pair") == ["a", "b", "a", "b"]


def test_a_role_keeps_off_nodes_that_only_the_other_role_could_use_too() -> None:
    both = node("both", CPU=8, GPU=1, prefill=1, decode=1)
    own = node("own", CPU=8, GPU=1, decode=1)
    assert plan_places(wanted(P, D, binds=True), [both, own], "spread") == ["both", "own"]


def test_only_what_is_free_is_given() -> None:
    busy = NodeRoom("a", {"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 1.0})
    assert plan_places(wanted(D, D), [busy], "spread") == ["a", ""]
    thirds = [Wanted(D, {"GPU": 0.3333})] * 4
    assert plan_places(thirds, [node("a", GPU=1)], "spread") == ["a", "a", "a", ""]
    told = describe_busy(wanted(D, D), ["a", ""])
    assert told.text == (
        "no room for 1 of 2 workers: no node has 1 CPU, 1 GPU free for a decode worker"
    )


def test_what_the_cluster_lacks_is_named_with_both_numbers() -> None:
    one, three = [node("a", CPU=8, GPU=2)], wanted(P, D, D)
    assert find_lack(three, one) == Lack("GPU", "3 workers need 3 GPU, the node has 2")
    assert find_lack(wanted(D), [node("a", CPU=0), node("b", GPU=1)]) == Lack(
        "CPU", "1 worker needs 1 CPU, the 2 nodes have 0"
    )
    assert find_lack(wanted(P, D), TWO_OF_TWO) is None


def test_a_role_without_a_node_is_named() -> None:
    prefill_only = [node("a", CPU=8, GPU=2, prefill=1)]
    lack = find_lack(wanted(P, D, binds=True), prefill_only)
    assert lack == Lack("decode", "2 workers need 1 decode, the node has 0")


def test_amounts_that_no_single_node_has_together_are_named() -> None:
    apart = [node("a", CPU=8), node("b", GPU=1)]
    assert find_lack(wanted(D), apart) == Lack("", "no node has 1 CPU, 1 GPU for a decode worker")
