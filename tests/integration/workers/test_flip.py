"""A worker changes its role in place: real engines in one process, with work in hand on purpose."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.config import WorkerSpec
from common.kv_transfer.in_process import InProcessTransport
from common.kv_transfer.transport import KVSource
from common.messages import Role, WorkRequest
from common.worker.host import EngineHost, build_host
from decode_worker.worker import make_decode_worker
from deploy import role_switch
from deploy.role_switch import Built, RoleSwitch
from pdserve.errors import Reason
from prefill_worker.worker import make_prefill_worker
from tests.integration.support.eight_prompts import PROMPTS, ROOMY, run_undisturbed, sampling
from tests.integration.support.in_process_workers import Answers, until
from tests.integration.support.kv_faults import Gate
from tests.patience import WITHIN_S
from tests.unit.common.engine.tiny_models import save_model


class Pair:
    """Two workers that may have either role, each with its own engine."""

    def __init__(self, model: Path) -> None:
        self.crashes: list[BaseException] = []
        self.answers = Answers()
        sources: dict[str, KVSource] = {}
        transport = InProcessTransport(sources)

        def build_prefill(spec: WorkerSpec, host: EngineHost) -> Built:
            worker = make_prefill_worker(spec, host)
            return Built(worker.shell, source=worker.source)

        def build_decode(spec: WorkerSpec, host: EngineHost) -> Built:
            return Built(make_decode_worker(spec, host, transport))

        self.hosts: dict[str, EngineHost] = {}
        self.workers: dict[str, RoleSwitch] = {}
        for role in Role:
            spec = WorkerSpec.model_validate(
                {
                    "name": f"{role}-0",
                    "role": str(role),
                    "model_dir": model,
                    "model_name": "tiny",
                    "namespace": "test",
                    "num_threads": 1,
                    "engine": ROOMY,
                }
            )
            host = self.hosts[spec.name] = build_host(spec, self.crashes.append)
            builders = {Role.PREFILL: build_prefill, Role.DECODE: build_decode}
            worker = self.workers[spec.name] = RoleSwitch(spec, host, builders)
            worker.subscribe(self.answers.take)
            worker.start()
            sources[spec.name] = worker

    def ask(self, worker: str, index: int, tag: str, prefill: str | None = None) -> str:
        """Let a worker answer one of the prompts; return the request's id."""
        request_id = f"{tag}{index}"
        prompt = tuple(PROMPTS[index])
        self.workers[worker].submit(WorkRequest(request_id, 0, prompt, sampling(index), prefill))
        return request_id

    def check_at_rest(self) -> None:
        """Check that no block is held, nothing broke and no token came twice."""
        until(lambda: all(h.engine.pool.num_held == 0 for h in self.hosts.values()), "free")
        assert not self.crashes
        self.answers.check()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def undisturbed(model: Path) -> list[list[int]]:
    return run_undisturbed(model)


@pytest.fixture
def pair(model: Path) -> Iterator[Pair]:
    pair = Pair(model)
    yield pair
    pair.check_at_rest()
    for worker in pair.workers.values():
        assert worker.stop(WITHIN_S)


def test_prompts_of_a_prefill_worker_that_flips_go_on_where_they_decode(
    pair: Pair, undisturbed: list[list[int]]
) -> None:
    loop, gate = pair.hosts["prefill-0"].loop, Gate()
    loop.post(gate.hold)
    gate.wait_reached()
    ids = [pair.ask("decode-0", index, "r", "prefill-0") for index in range(7)]
    until(lambda: loop._mailbox.qsize() == 7, "asked for seven prompts")
    flip = threading.Thread(target=pair.workers["prefill-0"].flip, args=(Role.DECODE,))
    flip.start()
    until(lambda: loop._mailbox.qsize() == 8, "told to flip")
    ids.append(pair.ask("decode-0", 7, "r", "prefill-0"))  # comes behind the flip
    until(lambda: loop._mailbox.qsize() == 9, "asked for another prompt")
    gate.open()
    flip.join(WITHIN_S)
    assert [pair.answers.finished(name).tokens for name in ids] == undisturbed
    assert pair.workers["decode-0"].load().prefill_fallbacks == 8
    # one who still believes in the old role is refused by the new one, and falls back too
    late = pair.ask("decode-0", 3, "late", "prefill-0")
    assert pair.answers.finished(late).tokens == undisturbed[3]


def test_both_roles_in_both_processes_give_the_same_text(
    pair: Pair, undisturbed: list[list[int]]
) -> None:
    names, infos = ["prefill-0", "decode-0"], []
    for turn in range(3):
        source, target = names if turn % 2 == 0 else names[::-1]
        ids = [pair.ask(target, index, f"t{turn}-", source) for index in range(8)]
        assert [pair.answers.finished(name).tokens for name in ids] == undisturbed
        info, load = pair.workers[target].info, pair.workers[target].load()
        assert (info.role, load.prefill_fallbacks, load.prefill_tokens) == (Role.DECODE, 0, 0)
        infos.append(pair.workers["decode-0"].info)
        until(lambda: all(h.engine.pool.num_held == 0 for h in pair.hosts.values()), "free")
        pair.workers[source].flip(Role.DECODE)
        pair.workers[target].flip(Role.PREFILL)
    assert len({info.incarnation for info in infos}) == 3
    assert len({(info.name, info.profile.row_counts) for info in infos}) == 1


def test_what_a_worker_computed_in_one_role_it_knows_in_the_other(
    pair: Pair, undisturbed: list[list[int]]
) -> None:
    first = pair.ask("decode-0", 3, "a", "prefill-0")
    assert pair.answers.finished(first).tokens == undisturbed[3]
    worker = pair.workers["prefill-0"]
    prefixes = worker.prefixes
    worker.flip(Role.DECODE)
    answer = pair.answers.finished(pair.ask("prefill-0", 3, "b"))
    assert answer.tokens == undisturbed[3]
    assert answer.timings is not None
    assert answer.timings.num_cached_tokens > 0
    assert worker.prefixes is prefixes


def test_requests_of_a_decode_worker_that_flips_undrained_end_with_a_word(pair: Pair) -> None:
    worker = pair.workers["decode-0"]
    loop, gate = pair.hosts["decode-0"].loop, Gate()
    loop.post(gate.hold)
    gate.wait_reached()
    ids = [pair.ask("decode-0", 3, "before")]
    flip = threading.Thread(target=worker.flip, args=(Role.PREFILL,))
    flip.start()
    until(lambda: loop._mailbox.qsize() == 2, "told to flip")
    ids.append(pair.ask("decode-0", 4, "behind"))
    gate.open()
    flip.join(WITHIN_S)
    failures = [pair.answers.finished(name).failure for name in ids]
    assert [failure and failure.reason for failure in failures] == [Reason.WORKER_LOST] * 2


def test_a_flip_that_took_too_long_does_not_happen_later(
    pair: Pair, undisturbed: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(role_switch, "FLIP_TIMEOUT_S", 0.01)
    worker, loop, gate = pair.workers["decode-0"], pair.hosts["decode-0"].loop, Gate()
    loop.post(gate.hold)
    gate.wait_reached()
    with pytest.raises(TimeoutError, match="decode-0 did not flip"):
        worker.flip(Role.PREFILL)
    late = pair.ask("decode-0", 4, "late")
    gate.open()
    assert pair.answers.finished(late).tokens == undisturbed[4]
    assert worker.info.role is Role.DECODE
