import pytest

from common.config import EngineConfig
from common.engine.limits import Limits, choose_limits, fit_blocks


@pytest.mark.parametrize(
    ("device", "num_seqs", "num_tokens", "expected"),
    [
        ("cpu", "auto", "auto", (64, 512)),
        ("cuda", "auto", "auto", (256, 2048)),
        ("cpu", 300, "auto", (300, 600)),  # half of a step's tokens may decode
        ("cpu", 7, "auto", (7, 512)),
        ("cuda", "auto", 100, (50, 100)),
        ("cpu", "auto", 2, (1, 2)),
        ("cpu", "auto", 4096, (64, 4096)),
        ("cuda", 99, 100, (99, 100)),
    ],
)
def test_what_is_set_is_kept_and_the_rest_follows(
    device: str, num_seqs: object, num_tokens: object, expected: tuple[int, int]
) -> None:
    values = {"max_num_seqs": num_seqs, "max_batch_tokens": num_tokens, "itl_target_s": 0.5}
    config = EngineConfig.model_validate(values)
    assert choose_limits(config, device) == Limits(*expected, itl_target_s=0.5)


def test_no_more_sequences_than_blocks_unless_they_are_set() -> None:
    limits = Limits(64, 512)
    assert fit_blocks(limits, EngineConfig(), 10) == Limits(10, 512)
    assert fit_blocks(limits, EngineConfig(), 100) == limits
    assert fit_blocks(limits, EngineConfig(max_num_seqs=64), 10) == limits
