from decode_worker.live_sequences import LiveSequences
from tests.unit.common.engine.sequences import make_sequence


def test_those_whose_deadline_has_passed_are_found_and_the_others_later() -> None:
    live = LiveSequences()
    timeouts_s = {"none": None, "late": 5.0, "soon": 1.0, "sooner": 0.5}
    seqs = {name: make_sequence(2, request_id=name, timeout_s=s) for name, s in timeouts_s.items()}
    for seq in seqs.values():
        live.add(seq)
    assert live.expired(0.5) == []
    assert live.expired(2.0) == [seqs["soon"], seqs["sooner"]]
    for seq in live.expired(2.0):
        live.remove(seq)
    assert live.expired(5.0) == []
    assert live.expired(6.0) == [seqs["late"]]
    live.remove(seqs["late"])
    assert live.expired(1e9) == []
    assert list(live) == [seqs["none"]]


def test_a_request_is_live_until_it_is_removed() -> None:
    live = LiveSequences()
    seq = make_sequence(2, request_id="r")
    live.add(seq)
    assert (live.get("r"), live.get("other"), len(live)) == (seq, None, 1)
    live.remove(seq)
    assert (live.get("r"), len(live)) == (None, 0)
