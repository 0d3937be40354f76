"""Running an engine's model over several prompts, as a scheduler would."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from common.engine.batch import Batch, BatchEntry, cut_chunks
from common.engine.build import Engine
from common.engine.memory.block_storage import Piece
from common.engine.memory.kv_cache import KVCache
from common.engine.sequence import Sequence
from tests.unit.common.engine.sequences import NO_EOS, hold, make_sequence
from tests.unit.common.engine.tiny_models import continue_greedily


@dataclass(frozen=True, slots=True)
class Answer:
    """Greedy tokens behind a prompt, and the keys and values that blocks held of all but the last."""

    tokens: list[int]
    kv: list[Piece]  # of each layer that has its own


def continuations(
    engine: Engine, prompts: list[list[int]], new_tokens: int, budget: int
) -> list[list[int]]:
    """Return greedy tokens after each prompt, all run together in steps of at most `budget` tokens."""
    with _generated(engine, prompts, new_tokens, budget) as sequences:
        return [seq.token_ids[seq.num_prompt_tokens :] for seq in sequences]


def answers(engine: Engine, prompts: list[list[int]], new_tokens: int, budget: int) -> list[Answer]:
    """Return what `continuations` does, with the keys and values."""
    cache: KVCache = engine.cache
    num_layers = len(engine.spec.kv_layers)  # 0: without attention nothing is written to blocks

    def answer(seq: Sequence) -> Answer:
        kv = cache.by_layer(cache.read(seq.block_table, 0, seq.num_computed_tokens))
        return Answer(seq.token_ids[seq.num_prompt_tokens :], kv[:num_layers])

    with _generated(engine, prompts, new_tokens, budget) as sequences:
        return [answer(seq) for seq in sequences]


@contextmanager
def _generated(
    engine: Engine, prompts: list[list[int]], new_tokens: int, budget: int
) -> Iterator[list[Sequence]]:
    """Run a sequence of each prompt to its end; they have their blocks until the context ends."""
    sequences = [make_sequence(prompt, max_tokens=new_tokens) for prompt in prompts]
    for seq in sequences:
        hold(engine.pool, seq, seq.num_prompt_tokens + new_tokens)
        if engine.prefix.slots is not None:
            seq.state_slot = engine.prefix.slots.take()
    generate(engine, sequences, budget)
    yield sequences
    for seq in sequences:
        engine.prefix.release(seq)


def lively_tokens(reference: Any, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    """Return the tokens that `transformers` generates; fewer than three kinds would prove little."""
    expected = [continue_greedily(reference, prompt, new_tokens) for prompt in prompts]
    assert len({token for tokens in expected for token in tokens}) >= 3, "not lively"
    return expected


def generate(engine: Engine, sequences: list[Sequence], budget: int) -> None:
    """Run all to their ends: decode tokens first, the rest of `budget` to chunks."""
    while unfinished := [seq for seq in sequences if not seq.is_finished]:
        decoding = [BatchEntry(s, 1) for s in unfinished if s.num_uncomputed_tokens == 1]
        filling = [seq for seq in unfinished if seq.num_uncomputed_tokens > 1]
        entries = (*decoding, *cut_chunks(filling, budget - len(decoding)))
        for entry, sample in zip(entries, engine.runner.run(Batch(entries)), strict=True):
            entry.seq.num_computed_tokens += entry.num_tokens
            assert (sample is not None) == (entry.seq.num_uncomputed_tokens == 0)
            if sample is not None:
                assert sample.is_finite
                entry.seq.append(sample.token_id, NO_EOS)
