from common.engine.batch import Batch, BatchEntry, cut_chunks
from common.engine.sequence import Sequence
from tests.unit.common.engine.sequences import NO_EOS, make_decoding, make_sequence


def cut(lengths: list[int], budget: int) -> list[int]:
    """Return sizes of the chunks that prompts of these lengths get."""
    return [entry.num_tokens for entry in cut_chunks(map(make_sequence, lengths), budget)]


def test_prompts_that_fit_run_whole() -> None:
    assert cut([5, 20, 3], 30) == [5, 20, 3]
    assert cut([5, 20, 3], 28) == [5, 20, 3]


def test_the_prompt_that_does_not_fit_is_cut_and_later_ones_wait() -> None:
    assert cut([5, 20, 3], 16) == [5, 11]
    assert cut([5, 20, 3], 26) == [5, 20, 1]


def test_a_used_up_budget_gives_nothing_to_the_next() -> None:
    assert cut([5, 20, 3], 5) == [5]
    assert cut([5, 20, 3], 25) == [5, 20]


def test_no_budget_no_chunk() -> None:
    assert cut([5], 0) == []
    assert cut([5], -3) == []
    assert cut([], 10) == []


def test_a_chunk_starts_where_the_last_one_ended() -> None:
    seq = make_sequence(10)
    sizes = []
    while seq.num_uncomputed_tokens:
        (entry,) = cut_chunks([seq], 4)
        assert entry.samples == (entry.num_tokens == 2)
        seq.num_computed_tokens += entry.num_tokens
        sizes.append(entry.num_tokens)
    assert sizes == [4, 4, 2]


def test_order_is_kept() -> None:
    first, second = make_sequence(3), make_sequence(3)
    assert [entry.seq for entry in cut_chunks([second, first], 10)] == [second, first]


def recomputing() -> Sequence:
    """A preempted sequence of 3 prompt and 2 output tokens, back with nothing computed."""
    seq = make_decoding(3, 11, 12)
    seq.num_computed_tokens = 0
    return seq


def test_only_an_entry_that_reaches_the_last_token_samples() -> None:
    assert not BatchEntry(recomputing(), 4).samples
    assert BatchEntry(recomputing(), 5).samples
    assert BatchEntry(make_decoding(3, 11), 1).samples


def test_prefill_work_is_all_but_decode_tokens() -> None:
    assert BatchEntry(make_sequence(1), 1).num_prompt_tokens == 1
    assert BatchEntry(make_sequence(9), 4).num_prompt_tokens == 4
    assert BatchEntry(recomputing(), 5).num_prompt_tokens == 5
    assert BatchEntry(make_decoding(3, 11), 1).num_prompt_tokens == 0


def test_a_batch_counts_decode_tokens_and_chunks() -> None:
    decoding, prompt = make_decoding(3, 11), make_sequence(9)
    assert Batch((BatchEntry(decoding, 1), BatchEntry(prompt, 4))).num_tokens == 5


def test_sampling_makes_the_next_step_one_token() -> None:
    seq = make_sequence(4, computed=0)
    seq.num_computed_tokens += 4
    seq.append(9, NO_EOS)
    assert [(e.num_tokens, e.samples) for e in cut_chunks([seq], 64)] == [(1, True)]
