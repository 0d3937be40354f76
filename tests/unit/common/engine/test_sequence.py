from dataclasses import replace

import pytest

from common.engine.sequence import Sequence
from common.engine.timeline import Timeline
from common.messages import FinishReason, SamplingParams, WorkRequest
from tests.unit.common.engine.sequences import NO_EOS, make_decoding, make_sequence

EOS = frozenset({7, 8})


def make_sampling(
    max_tokens: int = 10, stop: tuple[int, ...] = (), *, ignore_eos: bool = False
) -> SamplingParams:
    return SamplingParams(0.0, 0, max_tokens, stop_token_ids=stop, ignore_eos=ignore_eos)


def test_a_new_sequence_has_its_whole_prompt_to_compute() -> None:
    seq = make_sequence([5, 6, 9])
    assert seq.token_ids == [5, 6, 9]
    assert (seq.num_prompt_tokens, seq.num_output_tokens, seq.num_uncomputed_tokens) == (3, 0, 3)
    assert not seq.is_finished


def test_a_decoding_sequence_has_one_token_to_compute() -> None:
    seq = make_decoding(3, 11, 12)
    assert (seq.num_prompt_tokens, seq.num_output_tokens, seq.num_uncomputed_tokens) == (3, 2, 1)


def test_tokens_do_not_leak_into_the_request() -> None:
    seq = make_sequence([5, 6])
    seq.append(9, NO_EOS)
    assert seq.request.prompt_token_ids == (5, 6)


@pytest.mark.parametrize("token_id", [7, 8])
def test_any_end_token_stops(token_id: int) -> None:
    seq = make_sequence(2, make_sampling())
    seq.append(token_id, EOS)
    assert seq.finish_reason is FinishReason.STOP
    assert seq.token_ids[-1] == token_id


def test_an_ignored_end_token_does_not_stop() -> None:
    seq = make_sequence(2, make_sampling(ignore_eos=True))
    seq.append(7, EOS)
    assert not seq.is_finished


def test_a_stop_token_stops_even_if_end_tokens_are_ignored() -> None:
    seq = make_sequence(2, make_sampling(stop=(7, 30), ignore_eos=True))
    seq.append(8, EOS)
    assert not seq.is_finished
    seq.append(7, EOS)
    assert seq.finish_reason is FinishReason.STOP


def test_max_tokens_counts_output_only() -> None:
    seq = make_sequence(50, make_sampling(max_tokens=2))
    seq.append(1, EOS)
    assert not seq.is_finished
    seq.append(1, EOS)
    assert seq.finish_reason is FinishReason.LENGTH


def test_an_end_token_in_the_last_place_is_a_stop() -> None:
    seq = make_sequence(2, make_sampling(max_tokens=1))
    seq.append(7, EOS)
    assert seq.finish_reason is FinishReason.STOP


def test_prompt_tokens_never_stop() -> None:
    assert not make_sequence([7, 8, 30], make_sampling(stop=(30,))).is_finished


def test_a_deadline_counts_from_arrival() -> None:
    seq = make_sequence(2, timeout_s=1.5)
    seq.timeline.arrival_s = 100.0
    assert not seq.is_expired(101.5)
    assert seq.is_expired(101.6)


def test_without_a_timeout_nothing_expires() -> None:
    assert not make_sequence(2).is_expired(1e12)


def test_an_output_that_only_the_client_knows_is_no_answer_yet() -> None:
    request = WorkRequest("r", 1, (5, 6), make_sampling(), prior_token_ids=(9,))
    seq = Sequence(request, Timeline(arrival_s=0.0))
    assert (seq.num_output_tokens, seq.has_answered) == (1, False)
    seq.append(3, NO_EOS)
    assert seq.has_answered
    moved = Sequence(replace(request, attempt=2), Timeline(arrival_s=0.0))
    assert moved.has_answered, "another worker sampled it"
    assert not make_sequence(2).has_answered
    assert make_decoding(2, 7).has_answered
