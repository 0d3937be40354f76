"""What a decode worker says of a token."""

from dataclasses import replace

from common.engine.sampling.sampler import Sample
from common.engine.sequence import Sequence
from common.messages import SequenceOutput


def news_of(seq: Sequence, sample: Sample) -> SequenceOutput:
    """Of the token that was just appended."""
    index = seq.num_output_tokens - 1
    # a stop text that the router finds ends it without a word from here: token 2 tells of the hand-off
    is_timed = seq.finish_reason is not None or index == 1
    timings = seq.timeline.summary() if is_timed else None
    token_ids = (sample.token_id,)
    output = SequenceOutput(seq.request_id, index, token_ids, seq.finish_reason, None, timings)
    if sample.logprobs or (seq.prompt_logprobs and index == 0):
        scored = (sample.logprobs,) if sample.logprobs else ()
        prompt = tuple(seq.prompt_logprobs or ()) if index == 0 else ()
        output = replace(output, logprobs=scored, prompt_logprobs=prompt)
    return output
