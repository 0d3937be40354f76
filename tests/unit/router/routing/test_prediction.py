"""Costs of routes by hand.

A step of n rows takes 10 + n seconds and holds at most 100 tokens. KV of a token takes 1 s to copy
each way. A hand-off takes 3 s beside its copies.

So a prompt of n tokens takes 10 + n alone, and adds n to steps in which others decode. A prefill
worker runs the last 16 tokens in a step of their own, 10 s more, if earlier copies take longer.
"""

from dataclasses import replace

import pytest

from common.profile import Correction, WorkerProfile
from router.routing.policy import CostBased, Decision
from router.routing.prediction import Ask, Candidate, Route, RouteCost, predict

PROFILE = WorkerProfile(
    row_counts=(1, 101),
    row_seconds=(11.0, 111.0),
    sample_s=0.0,
    position_s=0.0,
    pair_s=0.0,
    copy_out_byte_s=1.0,
    insert_byte_s=1.0,
    kv_bytes_per_token=1,
    max_batch_tokens=100,
    max_num_seqs=4,
    correction=Correction(handoff_s=3.0),
)
PREFILL = Candidate("p", blocks_free=100, blocks_total=100, block_size=10, profile=PROFILE)
DECODE = replace(PREFILL, name="d")


def cost(ask: Ask, prefill: Candidate, decode: Candidate) -> dict[bool, RouteCost]:
    """By whether a prefill worker runs the prompt."""
    return {bool(c.route.prefill): c for c in predict(ask, [prefill], [decode])}


def parts(cost: RouteCost) -> tuple[float, ...]:
    return (cost.queue_s, cost.prefill_s, cost.transfer_s, cost.interference_s, cost.decode_s)


def decide(ask: Ask, prefill: list[Candidate], decode: list[Candidate]) -> Decision:
    decision = CostBased().choose(ask, prefill, decode)
    assert decision
    return decision


def test_when_all_are_idle_the_transfer_alone_tells_them_apart() -> None:
    found = cost(Ask(50, 7), PREFILL, DECODE)
    decode_s = 7 * 11  # alone in the batch
    assert parts(found[False]) == (0, 60, 0, 0, decode_s)
    assert parts(found[True]) == (0, 60 + 10, 3 + 16 + 16, 0, decode_s)
    assert (found[False].num_shipped_tokens, found[True].num_shipped_tokens) == (0, 50)
    assert decide(Ask(50, 7), [PREFILL], [DECODE]).route == Route("d")


def test_a_state_ships_behind_the_kv() -> None:
    """One of 40 bytes takes 40 s each way. The three that decode wait, and the credit lacks 10 bytes."""
    busy = replace(DECODE, num_sequences=3, credit_bytes=100, credit_wanted_bytes=20)
    before, found = (
        cost(Ask(50, 7), replace(PREFILL, profile=each), replace(busy, profile=each))[True]
        for each in (PROFILE, replace(PROFILE, state_bytes=40))
    )
    assert found.transfer_s - before.transfer_s == 40 + 40
    assert found.interference_s - before.interference_s == 3 * 40
    assert found.queue_s - before.queue_s == pytest.approx(10 / 100 * (60 + 50 + 40))


def test_a_prompt_beside_three_that_decode_makes_each_of_them_wait() -> None:
    """A step of the three takes 13, of four 14; half a step is left of the one that runs."""
    busy = replace(DECODE, num_sequences=3)
    found = cost(Ask(50, 7), PREFILL, busy)
    decode_s = 7 * (14 + 3 * 1)
    assert parts(found[False]) == (6.5, 50 + 13, 0, 3 * 50, decode_s)
    assert parts(found[True]) == (0, 60 + 10, 3 + 16 + 16 + 6.5, 3 * 50, decode_s)


def test_where_an_itl_target_holds_standing_still_counts_a_twentieth() -> None:
    profile = replace(PROFILE, itl_target_s=1000.0)  # so large that it cuts nothing
    busy = replace(DECODE, num_sequences=3, profile=profile)
    found = cost(Ask(50, 7), PREFILL, busy)
    decode_s = 7 * (14 + 3 * 1) / 20
    assert parts(found[False]) == pytest.approx((6.5, 50 + 13, 0, 3 * 50 / 20, decode_s))
    assert parts(found[True])[3:] == pytest.approx((3 * 50 / 20, decode_s))


def test_cheap_copies_send_a_long_prompt_away_from_a_busy_decode_worker_and_keep_a_short_one() -> (
    None
):
    profile = replace(PROFILE, copy_out_byte_s=0.01, insert_byte_s=0.01)
    prefill = replace(PREFILL, profile=profile)
    busy = replace(DECODE, num_sequences=3, profile=profile)
    # 5: 6.5 + 18 + 15 against 15 + 3.1 + 6.5 + 0.15; 1: 6.5 + 14 + 3 against 11 + 3 + 6.5 + 0.05
    chosen = {n: decide(Ask(n, 7), [prefill], [busy]).route.prefill for n in (1, 5, 90, 900)}
    assert chosen == {1: "p", 5: "p", 90: "p", 900: "p"}
    # a step is shared: where prefill's own steps are dear, the short one stays
    slow = replace(prefill, profile=replace(profile, row_seconds=(31.0, 131.0)))
    chosen = {n: decide(Ask(n, 7), [slow], [busy]).route.prefill for n in (1, 5, 90, 900)}
    assert chosen == {1: None, 5: None, 90: "p", 900: "p"}


def test_a_long_prompt_hides_all_but_its_last_chunk_and_pays_each_step() -> None:
    found = cost(Ask(230, 1), PREFILL, DECODE)
    assert found[False].prefill_s == 110 + 110 + 40
    assert found[True].prefill_s == 110 + 110 + 40 + 10
    assert found[True].transfer_s == 3 + 16 + 16
    # 18: only 2 tokens' copies, 4 s, would be saved
    assert cost(Ask(218, 1), PREFILL, DECODE)[True].transfer_s == 3 + 18 + 18
    assert found[True].num_shipped_tokens == 230


def test_beside_others_a_step_has_less_room_for_the_prompt() -> None:
    busy = replace(DECODE, num_sequences=3)
    # 97 a step: 230 tokens are three steps of the three others, 13 each
    assert cost(Ask(230, 1), PREFILL, busy)[False].prefill_s == 230 + 3 * 13


def test_a_prompt_known_where_it_would_run_costs_only_its_last_tokens() -> None:
    known = replace(DECODE, num_cached_tokens=40)
    found = cost(Ask(50, 7), PREFILL, known)
    assert found[False].prefill_s == 20
    assert found[False].num_cached_tokens == 40
    # prefill still runs all of it, but ships only what decode lacks
    assert found[True].prefill_s == 60
    assert found[True].transfer_s == 3 + 10 + 10
    assert found[True].num_shipped_tokens == 10


def test_what_prefill_knows_travels_all_the_same() -> None:
    known = replace(PREFILL, num_cached_tokens=240)
    found = cost(Ask(250, 7), known, DECODE)
    assert found[True].prefill_s == 20
    # one step, behind which everything leaves: there is nothing to taper
    assert found[True].transfer_s == 3 + 250 + 250
    # a step of 14, behind which what was known leaves
    known = replace(PREFILL, num_cached_tokens=220)
    found = cost(Ask(250, 7), known, DECODE)
    assert found[True].prefill_s == 10 + 14 + 10 + 16
    assert found[True].transfer_s == 3 + 16 + 16


def test_of_two_workers_the_one_that_knows_the_prompt_is_taken() -> None:
    others = [replace(DECODE, name=name) for name in ("d0", "d1", "d2")]
    others[1] = replace(others[1], num_cached_tokens=90)
    assert decide(Ask(95, 7), [], others).route == Route("d1")
    # but not when it has so much to do that computing it again elsewhere is quicker
    others[1] = replace(others[1], backlog_tokens=900)
    assert decide(Ask(95, 7), [], others).route == Route("d0")


def test_earlier_prompts_are_waited_for() -> None:
    waiting = replace(PREFILL, backlog_tokens=250)
    assert cost(Ask(50, 7), waiting, DECODE)[True].queue_s == 110 + 110 + 60
    busy = replace(DECODE, num_sequences=2, backlog_tokens=98)
    # one step of 98 rows beside two sequences (12), then half a step of them
    assert cost(Ask(50, 7), PREFILL, busy)[False].queue_s == 98 + 12 + 6


def test_a_prompt_that_overtakes_waits_for_half_of_the_step_that_runs() -> None:
    """Steps hold 100 tokens: a full one takes 110, one of the last 40 takes 50."""
    long = replace(PREFILL, overtaken_tokens=2000)
    assert cost(Ask(50, 7), long, DECODE)[True].queue_s == 110 / 2
    ending = replace(PREFILL, overtaken_tokens=40)
    assert cost(Ask(50, 7), ending, DECODE)[True].queue_s == 50 / 2
    # a wait for earlier prompts includes that step
    both = replace(long, backlog_tokens=40)
    assert cost(Ask(50, 7), both, DECODE)[True].queue_s == 50


def test_the_attention_of_earlier_prompts_is_that_of_prompts_like_this_one() -> None:
    profile = replace(PROFILE, pair_s=1.0)
    waiting = replace(PREFILL, backlog_tokens=100, profile=profile)
    assert cost(Ask(20, 7), waiting, DECODE)[True].queue_s == 110 + 100 * 20 / 2


def test_whoever_is_expected_meanwhile_is_disturbed_by_half_of_what_is_left() -> None:
    """Two a second for two decode workers: 60 arrive while it runs and lose half of the 60 each."""
    decode = [DECODE, replace(DECODE, name="e")]
    (first, *_) = predict(Ask(50, 7, arrivals_per_s=2.0), [], decode)
    assert first.interference_s == 60 / 2 * 60


def test_missing_blocks_come_free_in_their_share_of_a_sequences_stay() -> None:
    """101 positions are 11 blocks; 5 are free and 95 held by 2 sequences that stay 7 steps of 12."""
    tight = replace(DECODE, num_sequences=2, blocks_free=5)
    found = cost(Ask(100, 7), PREFILL, tight)
    assert found[True].queue_s == pytest.approx(6 / 95 * 7 * 12)
    assert found[False].queue_s == pytest.approx(6 / 95 * 7 * 12 + 6)


def test_a_full_batch_makes_newcomers_wait_for_a_place_and_grows_no_further() -> None:
    """4 sequences run and 2 wait: the third to wait gets a place after 3/4 of a stay."""
    full = replace(DECODE, num_sequences=6)
    found = cost(Ask(10, 7), PREFILL, full)[True]
    assert found.queue_s == pytest.approx(3 / 4 * 7 * 14)
    assert found.decode_s == 7 * 14


def test_of_equal_costs_the_decode_worker_alone_is_taken_then_the_first_name() -> None:
    free = replace(PROFILE, copy_out_byte_s=0.0, insert_byte_s=0.0)
    free = replace(free, correction=Correction(handoff_s=0.0))
    prefill = [replace(PREFILL, name=name, profile=free) for name in ("p1", "p0")]
    decode = [replace(DECODE, name=name, profile=free) for name in ("d1", "d0")]
    assert decide(Ask(50, 7), prefill, decode).route == Route("d0")
    both = [replace(worker, num_cached_tokens=9) for worker in prefill]
    assert decide(Ask(50, 7), both, decode).route == Route("d0", "p0")


def test_a_decision_says_who_runs_the_prompt_and_how_much_of_it() -> None:
    known = replace(DECODE, num_cached_tokens=40)
    alone = decide(Ask(50, 7), [PREFILL], [known])
    assert (alone.prompt_worker, alone.num_new_tokens) == ("d", 10)
    full = replace(DECODE, num_sequences=4, backlog_tokens=1000)
    away = decide(Ask(50, 7), [PREFILL], [full])
    assert (away.prompt_worker, away.num_new_tokens) == ("p", 50)


def test_a_decode_worker_without_credit_is_a_queue() -> None:
    """A token's KV is a byte.

    Of 100 bytes 80 are wanted already: 50 more miss 30, which come free in 3/10 of a pull of 60 +
    50 seconds.
    """
    short = replace(DECODE, credit_bytes=100, credit_wanted_bytes=80)
    found = cost(Ask(50, 7), PREFILL, short)
    assert found[True].queue_s == pytest.approx(30 / 100 * 110)
    assert found[False].queue_s == 0  # its own prompts need none
    assert cost(Ask(20, 7), PREFILL, short)[True].queue_s == 0
    # others wait before it
    queue = replace(short, credit_wanted_bytes=450)
    assert cost(Ask(50, 7), PREFILL, queue)[True].queue_s == pytest.approx(4 * 110)


def test_work_goes_to_the_decode_worker_with_credit_or_stays_where_it_decodes() -> None:
    free = replace(PROFILE, copy_out_byte_s=0.0, insert_byte_s=0.0)
    free = replace(free, correction=Correction(handoff_s=0.0))
    prefill = replace(PREFILL, num_cached_tokens=40, profile=free)
    decode = [replace(DECODE, name=name, profile=free, credit_bytes=100) for name in ("d0", "d1")]
    assert decide(Ask(50, 7), [prefill], decode).route == Route("d0", "p")
    decode[0] = replace(decode[0], credit_wanted_bytes=90)
    assert decide(Ask(50, 7), [prefill], decode).route == Route("d1", "p")
    decode[1] = replace(decode[1], credit_wanted_bytes=1000)
    decode[0] = replace(decode[0], credit_wanted_bytes=1000)
    assert decide(Ask(50, 7), [prefill], decode).route == Route("d0")
