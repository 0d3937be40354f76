"""An engine whose model is a hash, so that a wrong byte of KV or a wrong token shows in the text.

The KV of a position is the hash of all tokens up to it, as a number that float32 holds exactly. A step
reads the KV of the position before from its block, wherever that came from: another step, another worker,
a shared prefix, host memory. The next token is a function of that hash and the request's seed.
"""

from collections.abc import Callable
from collections.abc import Sequence as Tokens
from typing import Any

import torch

from common.config import EngineConfig
from common.engine.batch import Batch, BatchEntry
from common.engine.build import Engine
from common.engine.limits import choose_limits
from common.engine.memory.block_pool import BlockPool
from common.engine.memory.kv_cache import KVCache
from common.engine.memory.prefix_cache import PrefixCache
from common.engine.model_runner import Launched
from common.engine.model_spec import ModelSpec
from common.engine.profiling.costs import Costs, within_limits
from common.engine.sampling.sampler import Sample
from common.engine.sequence import Sequence
from common.profile import WorkerProfile

VOCAB, EOS, BLOCK_SIZE = 997, 0, 4
SPEC = ModelSpec(1, 1, 1, 2, VOCAB, 4096, frozenset({EOS}), "float32", "hash")
_START, _MASK = 1, 2**24 - 1  # float32 counts exactly up to there


def answer(prompt: Tokens[int], seed: int, max_tokens: int) -> list[int]:
    """Return the output of an undisturbed run."""
    state = _START
    for token_id in prompt:
        state = _absorb(state, token_id)
    output: list[int] = []
    while len(output) < max_tokens and EOS not in output:
        output.append(_next_token(state, seed))
        state = _absorb(state, output[-1])
    return output


def make_engine(
    num_blocks: int, config: EngineConfig, on_entry: Callable[[BatchEntry], None]
) -> Engine:
    """Build an engine with that many blocks of 4 positions; `on_entry` is told of each part of a step."""
    cache = KVCache(SPEC, num_blocks, BLOCK_SIZE, torch.device("cpu"), "pages")
    prefix = PrefixCache(BlockPool(num_blocks, BLOCK_SIZE), SPEC.fingerprint)
    limits = choose_limits(config)
    costs = Costs(within_limits(WorkerProfile(), limits))
    runner: Any = HashRunner(cache, on_entry)
    return Engine(SPEC, config, prefix, cache, runner, costs, limits)


class HashRunner:
    """Stands in for the ModelRunner."""

    def __init__(self, cache: KVCache, on_entry: Callable[[BatchEntry], None]) -> None:
        self._cache = cache
        self._on_entry = on_entry

    def run(self, batch: Batch) -> list[Sample | None]:
        """Run a step (ModelRunner.run)."""
        return self.launch(batch).result()

    def launch(self, batch: Batch, previous: Launched | None = None) -> Launched:
        """Run a step (ModelRunner.launch)."""
        for entry in batch.entries:
            self._on_entry(entry)
        states = [self._advance(entry) for entry in batch.entries]
        pairs = zip(batch.entries, states, strict=True)
        found = [
            Sample(_next_token(state, entry.seq.sampling.seed))
            for entry, state in pairs
            if entry.samples
        ]
        samplers = [entry.seq for entry in batch.entries if entry.samples]
        return Launched(batch, samplers, lambda: found)

    def _advance(self, entry: BatchEntry) -> int:
        """Store the KV of an entry's positions; return the last one's."""
        seq, state = entry.seq, self._state_before(entry.seq, entry.start)
        states = []
        for position in range(entry.start, entry.end):
            state = _absorb(state, seq.token_ids[position])
            states.append(float(state))
        payload = torch.tensor(states).reshape(1, 1, -1, 1, 1).expand(1, 2, -1, 1, 2).contiguous()
        self._cache.write(seq.block_table, entry.start, payload)
        return state

    def _state_before(self, seq: Sequence, start: int) -> int:
        if not start:
            return _START
        return int(self._cache.read(seq.block_table, start - 1, start).flatten()[0].item())


def _absorb(state: int, token_id: int) -> int:
    return (state * 69069 + (token_id + 1) * 40503) & _MASK


def _next_token(state: int, seed: int) -> int:
    return (state ^ (seed * 2654435761 & _MASK)) * 31 % 1_000_003 % VOCAB
