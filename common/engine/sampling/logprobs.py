"""Log-probabilities of tokens under the model's own distribution, log_softmax(logits)."""

import torch

from common.engine.batch import Batch
from common.messages import TokenLogprobs

_ROWS = 64  # at once: bounds the memory of a chunk's float32 copies


def score(logits: torch.Tensor, token_ids: list[int], num_top: list[int]) -> list[TokenLogprobs]:
    """Return each row's token logprob, and those of its likeliest `num_top`; `logits` is [n, vocab]."""
    scores: list[TokenLogprobs] = []
    for start in range(0, len(token_ids), _ROWS):
        part = slice(start, start + _ROWS)
        scores += _score(logits[part], token_ids[part], num_top[part])
    return scores


def score_prompts(logits: torch.Tensor, batch: Batch) -> None:
    """Add to the sequences' `prompt_logprobs`; rows are those of `scored_positions`, entry by entry."""
    start = 0
    for entry in batch.entries:
        seq, scored = entry.seq, entry.scored_positions
        if not scored or seq.prompt_logprobs is None:
            continue
        token_ids = seq.token_ids[scored.start : scored.stop]
        num_top = [seq.sampling.prompt_logprobs or 0] * len(scored)
        seq.prompt_logprobs += score(logits[start : start + len(scored)], token_ids, num_top)
        start += len(scored)


def _score(logits: torch.Tensor, token_ids: list[int], num_top: list[int]) -> list[TokenLogprobs]:
    wide = logits.float()
    # not logsumexp, which cuts a row that is alone into a part for each thread and so rounds it otherwise
    scores = torch.log_softmax(wide, dim=-1)
    index = torch.tensor(token_ids, device=wide.device)[:, None]
    chosen = scores.gather(-1, index)[:, 0].tolist()
    top = wide.topk(min(max(num_top), wide.shape[-1]), dim=-1).indices
    rows = zip(chosen, top.tolist(), scores.gather(-1, top).tolist(), num_top, strict=True)
    return [
        TokenLogprobs(logprob, tuple(ids[:count]), tuple(values[:count]))
        for logprob, ids, values, count in rows
    ]
