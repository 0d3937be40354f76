import pytest

from common.kv_capacity import describe_capacity


@pytest.mark.parametrize(
    ("num_tokens", "context", "num_seqs", "text"),
    [
        (135_168, 8192, 64, "16 sequences of 8,192 tokens, or 64 of 2,112"),
        (64 * 512, 512, 64, "64 sequences of 512 tokens"),
        (10**6, 512, 64, "64 sequences of 512 tokens"),
        (3000, 8192, 64, "1 sequence of 3,000 tokens, or 64 of 46"),
        (3000, 2048, 2, "1 sequence of 2,048 tokens, or 2 of 1,500"),
        (3000, 8192, 1, "1 sequence of 3,000 tokens"),
        (0, 8192, 64, "0 sequences of 0 tokens, or 64 of 0"),
    ],
)
def test_both_few_long_and_many_short_sequences_are_told(
    num_tokens: int, context: int, num_seqs: int, text: str
) -> None:
    assert describe_capacity(num_tokens, context, num_seqs) == text
