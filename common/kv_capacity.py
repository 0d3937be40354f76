"""Description of a worker's KV memory for people: how many sequences of how many tokens fit."""


def describe_capacity(num_tokens: int, max_context_tokens: int, max_num_seqs: int) -> str:
    """Return, for example, "16 sequences of 8,192 tokens, or 64 of 2,112".

    The first are as long as the model allows, or one as long as `num_tokens` positions allow. The others are
    as many as may run together.
    """
    longest = min(num_tokens, max_context_tokens)
    num_longest = min(num_tokens // longest, max_num_seqs) if longest else 0
    plural = "" if num_longest == 1 else "s"
    text = f"{num_longest:,} sequence{plural} of {longest:,} tokens"
    if num_longest >= max_num_seqs:
        return text
    return f"{text}, or {max_num_seqs:,} of {num_tokens // max_num_seqs:,}"
