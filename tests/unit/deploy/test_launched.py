"""Diagnosis of a dead worker, by its location; needs no actor."""

from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError

from common.config import WorkerSpec
from deploy.launched import Launched
from deploy.placement import Share
from deploy.worker_process import Home


def launched(
    log_file: Path | None, home: Home | None = None, namespace: str = "pdserve"
) -> Launched:
    spec = WorkerSpec(
        name="decode-0",
        role="decode",
        model_dir=Path("model"),
        model_name="tiny",
        namespace=namespace,
        log_file=log_file,
    )
    return Launched(spec, handle=None, share=Share(1, ()), home=home)


def test_a_worker_of_this_machine_is_read_by_our_command(tmp_path: Path) -> None:
    path = tmp_path / "1.log"
    assert launched(path).where_to_look() == "`pdserve logs decode-0`"
    told = launched(path, namespace="blue").where_to_look()
    assert told == "`pdserve logs decode-0 --namespace blue`"


@pytest.mark.parametrize(
    ("home", "told"),
    [
        (Home("10.0.0.7", 5, "/logs/1.log"), "/logs/1.log on 10.0.0.7"),
        (Home("10.0.0.7", 5, ""), "the logs of its node's Ray"),
        (None, "the logs of its node's Ray"),
    ],
)
def test_a_cluster_s_worker_is_read_on_its_node(home: Home | None, told: str) -> None:
    assert launched(None, home).where_to_look() == told


def test_a_file_that_could_not_be_made_is_not_named(tmp_path: Path) -> None:
    told = launched(tmp_path / "1.log", Home("127.0.0.1", 5, "")).where_to_look()
    assert told == "the logs of its node's Ray"


def test_its_death_is_read_from_its_file_and_unknown_without_one(tmp_path: Path) -> None:
    path = tmp_path / "1.log"
    assert "nobody knows" in launched(path).examine(ActorDiedError()).cause
    path.write_text("out of luck\nFatal Python error: Aborted\n")
    death = launched(path).examine(ActorDiedError())
    assert (death.cause, death.last_words) == ("SIGABRT", "out of luck")
