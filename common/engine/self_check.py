"""Proof at load that every layer attends through our backend and that the numbers are the model's own.

A model may mix positions in a way our attention never sees: a recurrent layer, a mask, positions that it
counts itself. It would run and answer wrongly. So a few tokens run with the attention of `transformers`, and
their keys, values, states and logits are compared with ours, after a chunk and a decode step.
"""

from dataclasses import replace
from typing import Any

import torch

from common.engine.attention.form import UnsupportedAttentionError
from common.engine.attention.interface import ATTENTION_NAME, OWN_NAME, choose_attention
from common.engine.attention.without_cache import noted_layers
from common.engine.batch import Batch, BatchEntry
from common.engine.check_limits import limits_of, without_worst
from common.engine.memory.block_pool import BlockPool
from common.engine.memory.block_storage import Piece
from common.engine.memory.freed import give_freed_back
from common.engine.memory.kv_cache import KVCache
from common.engine.memory.quantized_kv import LEVELS
from common.engine.model_runner import ModelRunner
from common.engine.model_spec import ModelSpec
from common.engine.own_kv import keys_and_values, like_stored, own_layers
from common.engine.own_rounding import rounded_kv
from common.engine.ragged import RaggedInputs
from common.engine.sequence import Sequence
from common.engine.state.cache import StateCache
from common.engine.state.families import family_of
from common.engine.state.layout import StateLayout
from common.engine.state.own import read_states
from common.engine.timeline import Timeline
from common.messages import SamplingParams, WorkRequest
from pdserve.errors import SetupError

CHECK_TOKENS = 9
_CHUNKS = (5, 3)  # of all but the last token, in a model with state
_PLAIN = SamplingParams(temperature=1.0, seed=0, max_tokens=1)
_EVERY_OPTION = replace(
    _PLAIN,
    top_k=3,
    top_p=0.9,
    min_p=0.01,
    repetition_penalty=1.1,
    logit_bias=((0, 1.0),),
    logprobs=1,
)
_BANNING = replace(_PLAIN, allowed_token_ids=(0,))
_SLOT = 0  # for the state of the check's sequences


class SelfCheck:
    """Made before the model is fused, run when the engine is built; both raise SetupError."""

    def __init__(self, model: torch.nn.Module, spec: ModelSpec) -> None:
        # spread over the vocabulary: special tokens gather at its ends
        self._tokens = tuple(spec.vocab_size * (i + 1) // 10 for i in range(CHECK_TOKENS))
        self._limits, self._levels = limits_of(spec), LEVELS.get(spec.kv_quantization)
        self._kv_layers, self._kv_shapes = spec.kv_layers, spec.kv_shapes
        self._not_rounded: list[int] = []  # layers whose own KV is not rounded as ours is
        self.state_layout: StateLayout | None = None  # None: the model has no state
        try:
            self._run_alone(model)
        # whatever a model raises that wants more than tokens, or other ones
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise SetupError(f"the model does not run on token ids alone: {reason}") from error
        give_freed_back()
        found = frozenset[int]() if self.state_layout is None else self.state_layout.layers
        if unlike := found ^ set(spec.state_layers):
            raise SetupError(
                f"the model is not supported: its layer {min(unlike)} holds state, or config.json says so"
            )

    def run(
        self,
        runner: ModelRunner,
        cache: KVCache,
        pool: BlockPool,
        states: StateCache | None = None,
    ) -> str:
        """Run a chunk and a decode step; compiles or loads kernels on the way. Raises SetupError.

        No sequence holds blocks or slots yet. Return words about what is not compared alike; "": nothing.
        """
        seq, *others = (self._sequence(s) for s in (_PLAIN, _EVERY_OPTION, _BANNING))
        for each in (seq, *others):
            each.state_slot = None if states is None else _SLOT
        blocks = pool.allocate(pool.num_blocks_for(CHECK_TOKENS))
        seq.block_table = blocks
        try:
            # a state must go on from one chunk to the next too
            for num_tokens in (CHECK_TOKENS - 1,) if states is None else _CHUNKS:
                runner.run(Batch((BatchEntry(seq, num_tokens),)))
                seq.num_computed_tokens += num_tokens
            last = Batch((BatchEntry(seq, 1),))
            runner.run(last)
            for other in others:
                other.block_table, other.num_computed_tokens = blocks, CHECK_TOKENS - 1
                runner.run(Batch((BatchEntry(other, 1),)))
            if states is not None:
                self._check_states(states)
            unknown = self._check_layers(
                cache.by_layer(cache.read(seq.block_table, 0, CHECK_TOKENS))
            )
            self._check_logits(runner.logits(RaggedInputs.from_batch(last, pool.block_size)))
        except UnsupportedAttentionError as error:
            raise SetupError(f"the model's attention is not supported: {error}") from error
        except TypeError as error:
            raise SetupError(f"the model does not take our attention keyword: {error}") from error
        finally:
            pool.release(seq.block_table)
        told = ("not compared", unknown), ("compared as full numbers", self._not_rounded)
        return "; ".join(_of_layers(what, layers) for what, layers in told if layers)

    def _sequence(self, sampling: SamplingParams) -> Sequence:
        return Sequence(WorkRequest("probe", 0, self._tokens, sampling), Timeline(arrival_s=0.0))

    def _run_alone(self, model: torch.nn.Module) -> None:
        ids = torch.tensor([self._tokens], device=next(model.parameters()).device)
        with torch.inference_mode(), noted_layers(model) as noted:
            output = self._with_own_attention(model, ids)
        self._own_logits: torch.Tensor = output.logits[0, -1].float()
        layers: list[Any] = noted or own_layers(output)
        layout, self._own_states = read_states(family_of(model).own_states(model, output))
        if layout.parts:
            self.state_layout = layout
        # other kinds of cache have no layers to compare
        known = (layers[n] if n < len(layers) else None for n in self._kv_layers)
        self._own_layers = [keys_and_values(layer) for layer in known]

    def _with_own_attention(self, model: Any, ids: torch.Tensor) -> Any:
        if not self._kv_layers:
            return model(input_ids=ids, use_cache=True)
        choose_attention(model, OWN_NAME)
        with rounded_kv(model, self._levels) as rounded:
            output = model(input_ids=ids, use_cache=True)
        if self._levels is not None:
            self._not_rounded = [layer for layer in self._kv_layers if layer not in rounded]
        choose_attention(model, ATTENTION_NAME)
        return output

    def _check_layers(self, kv: list[Piece]) -> list[int]:
        """Compare keys and values; return the layers of which the model does not tell its own."""
        unknown = []
        for layer, (keys, _) in zip(self._kv_layers, kv, strict=False):
            if not keys.any():
                raise UnsupportedAttentionError(
                    f"layer {layer} does not attend over keys and values"
                )
        for place, (stored, own) in enumerate(zip(kv, self._own_layers, strict=False)):
            layer, shape = self._kv_layers[place], self._kv_shapes[place]
            own = own and like_stored(own, stored, shape)
            if own is None:
                unknown.append(layer)
                continue
            num_kept = len(own[0])  # a window keeps the last ones
            last = torch.cat([x[len(x) - num_kept :].flatten(1) for x in stored], dim=1).float()
            expected = torch.cat([x.flatten(1) for x in own], dim=1)
            limits = self._limits
            limit = limits.layer if place else limits.first_layer
            rows = without_worst(last, expected, limits.share_left_out if place else 0)
            _check(f"the keys and values of layer {layer}", *rows, limit)
        return unknown

    def _check_states(self, states: StateCache) -> None:
        ours = states.parts(states.read(_SLOT, CHECK_TOKENS))
        for part, state, own in zip(states.layout.parts, ours, self._own_states, strict=True):
            what = f"the {part.key[0]} state of layer {part.layer}"
            _check(what, state, own.float().cpu(), self._limits.end)

    def _check_logits(self, logits: torch.Tensor) -> None:
        _check("its logits", logits[0], self._own_logits, self._limits.end)


def _of_layers(what: str, layers: list[int]) -> str:
    return f"{what}: keys and values of layers {', '.join(map(str, layers))}"


def _check(what: str, ours: torch.Tensor, own: torch.Tensor, limit: float) -> None:
    error = float((ours.float() - own).norm() / own.norm())
    if not error <= limit:  # NaN is refused too
        raise UnsupportedAttentionError(
            f"{what} differ from the model's own by {error:.0%}; it masks, or counts positions, "
            "where attention does not see it"
        )
