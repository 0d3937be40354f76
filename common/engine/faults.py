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
    Reason.DEADLINE_EXCEEDED,
    Reason.TOKEN_OUT_OF_VOCABULARY,
}


def sample_fault(seq: Sequence, sample: Sample) -> WorkFailure | None:
    """Return the failure that makes this sample unusable; None if it is a token to go on with."""
    if not sample.is_finite:
        return WorkFailure(Reason.NAN_LOGITS, "the model returned NaN or infinite logits")
    if seq.matcher is not None and (error := seq.matcher.error):
        return WorkFailure(Reason.GRAMMAR_FAILED, error)
    return None


def step_fault(error: BaseException) -> WorkFailure:
    """Return the failure of a request with which alone a step raises (isolation.py)."""
    message = f"a step of the model raised {type(error).__name__} with this request alone"
    return WorkFailure(Reason.STEP_FAILED, message)
