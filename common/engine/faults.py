"""Failures that end a sequence after a step, in words for its client."""

from common.engine.sampling.sampler import Sample
from common.engine.sequence import Sequence
from common.messages import WorkFailure
from pdserve.errors import Reason

# after these the content of the sequence's blocks is not to be trusted
UNTRUSTED = {Reason.NAN_LOGITS, Reason.STEP_FAILED}
# failures on prefill that another run of the prompt, on decode, would only repeat
FINAL = UNTRUSTED | {
    Reason.GRAMMAR_FAILED,
    Reason.NO_TOKEN_LEFT,
    Reason.INVALID_FIELD,
    Reason.DEADLINE_EXCEEDED,
    Reason.TOKEN_OUT_OF_VOCABULARY,
}


def sample_fault(seq: Sequence, sample: Sample) -> WorkFailure | None:
    """Return the failure that makes this sample unusable; None if it is a token to go on with."""
    if not sample.is_finite:
        return WorkFailure(Reason.NAN_LOGITS, "the model returned NaN or infinite logits")
    if seq.matcher is not None and (error := seq.matcher.error):
        return WorkFailure(Reason.GRAMMAR_FAILED, error)
    return None if sample.has_choice else _closed_fault(seq)


def _closed_fault(seq: Sequence) -> WorkFailure:
    """Return the end of a request that forbids every token; one that did from the start is invalid."""
    sampling, number = seq.sampling, seq.num_output_tokens
    in_force = {
        "structured_output": seq.matcher is not None,
        "min_tokens": number < sampling.min_tokens,
        "bad_words": bool(sampling.bad_words),
        "allowed_token_ids": bool(sampling.allowed_token_ids),
    }
    names = " and ".join(name for name, is_in_force in in_force.items() if is_in_force)
    if not number:
        return WorkFailure(Reason.INVALID_FIELD, f"by {names} no token may come first")
    return WorkFailure(Reason.NO_TOKEN_LEFT, f"by {names} no token may follow the first {number}")


def step_fault(error: BaseException) -> WorkFailure:
    """Return the failure of a request with which alone a step raises (isolation.py)."""
    message = f"a step of the model raised {type(error).__name__} with this request alone"
    return WorkFailure(Reason.STEP_FAILED, message)
