"""One prompt's KV on its way in, read by a pull thread beside the engine's thread.

1. `Pull.run` opens the stream (`KVTransport.open`), reads item after item, checks each and delivers it.
2. A chunk's payload stays in the transport's memory until the engine has inserted it: a copy would cost the
   decoding core as much as the insertion.
3. The thread touches no engine state. It reads no further while `AT_HAND` of its chunks wait for the engine
   (`note_inserted`).
4. Every end but `close` is delivered: a failure of prefill's, a refused item, a stream that ended early.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from common.engine.memory.kv_cache import BLOCK_DTYPES
from common.engine.remote_prefill import RemotePrefill
from common.engine.sequence import Sequence
from common.kv_transfer.layout import KVLayout
from common.kv_transfer.state_pieces import check_state_piece
from common.kv_transfer.transport import KVStream, KVTransport, TransferError
from common.kv_transfer.wire import (
    ChunkHeader,
    FailureHeader,
    FirstTokenHeader,
    Payload,
    StateHeader,
    WireError,
    WireItem,
    check_chunk,
    check_first_token,
    decode_header,
)
from common.messages import TokenLogprobs
from decode_worker.pull_credit import AT_HAND, PullCredit


@dataclass(frozen=True, slots=True)
class Chunk:
    """KV of the positions from `start` on, in the wire layout, in the model's dtype."""

    start: int
    num_tokens: int
    kv: torch.Tensor
    num_bytes: int
    copied: tuple[float, float]  # as in ChunkHeader


@dataclass(frozen=True, slots=True)
class StatePiece:
    """Bytes of the prompt's state from byte `start` on, uint8."""

    start: int
    state: torch.Tensor
    copied: tuple[float, float]  # as in ChunkHeader


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Token 1, with the log-probabilities of the prompt's tokens if the request asks for them."""

    header: FirstTokenHeader
    prompt_logprobs: list[TokenLogprobs] | None


@dataclass(frozen=True, slots=True)
class PullFailed:
    """End of a stream that did not deliver the whole prompt, and its cause."""

    error: Exception


News = Chunk | StatePiece | FirstToken | FailureHeader | PullFailed


class Pull:
    """One stream that is being read. `run` is for a pull thread, all else for the engine's thread."""

    def __init__(
        self, seq: Sequence, layout: KVLayout, opened_s: float, credit: PullCredit
    ) -> None:
        self.seq = seq
        self.remote = RemotePrefill(asked_s=opened_s)
        self.request = replace(
            seq.request,
            num_held_tokens=seq.num_computed_tokens,
            waited_s=opened_s - seq.timeline.arrival_s,
            max_item_tokens=credit.max_item_tokens,
        )
        self.charged_bytes = credit.cost(seq)
        self.is_closed = False
        self._room = threading.Semaphore(AT_HAND)
        self._layout = layout
        self._stream: KVStream | None = None
        self._next_start = seq.num_computed_tokens
        self._next_state_byte = 0
        self._has_first_token = False  # seen by the thread
        self.is_token_taken = False  # seen by the engine
        self.is_state_taken = not layout.state_bytes

    def close(self) -> None:
        """End the stream and drop whatever still arrives. Safe to repeat."""
        self.is_closed = True
        self._room.release()
        if self._stream is not None:
            self._stream.close()

    def note_inserted(self) -> None:
        """Note that a chunk or a piece of the state is in its place, so that the thread may fetch another."""
        self._room.release()

    def run(
        self, transport: KVTransport, timeout_s: float, deliver: Callable[["Pull", News], None]
    ) -> None:
        """Read until the end and deliver every outcome but a close. Raises nothing."""
        try:
            self._stream = stream = transport.open(self.request.prefill_worker or "", self.request)
            # close() may have come before there was a stream to close: one of the two sides sees both
            if self.is_closed:
                stream.close()
            while self._pass_on(stream, timeout_s, deliver):
                pass  # holding no chunk itself, which keeps it in the transport's memory
            if not self._has_all:
                raise TransferError("the stream ended early")
        except Exception as error:  # a thread's edge: any fault here means the KV is not coming
            if not self.is_closed:
                self.close()
                deliver(self, PullFailed(error))

    @property
    def _has_all(self) -> bool:
        """True once token 1, all KV and the whole state have come."""
        has_kv = self._next_start == self.seq.num_given_tokens
        has_state = self._next_state_byte == self._layout.state_bytes
        return self._has_first_token and has_kv and has_state

    def _pass_on(
        self, stream: KVStream, timeout_s: float, deliver: Callable[["Pull", News], None]
    ) -> bool:
        """Deliver the next item; return False when there is none."""
        news = self._next(stream, timeout_s)
        if news is not None:
            deliver(self, news)
        return news is not None

    def _next(self, stream: KVStream, timeout_s: float) -> News | None:
        """Return the next thing to deliver; None at the end and when the pull is closed."""
        if not self._room.acquire(timeout=timeout_s):
            raise TransferError(f"the engine took in no KV for {timeout_s} s")
        item = None if self.is_closed else stream.next(timeout_s)
        if item is None or self.is_closed:
            return None
        news = self._parse(item)
        if not isinstance(news, Chunk | StatePiece):
            self._room.release()
        return news

    def _parse(self, item: WireItem) -> News:
        header = decode_header(item[0])
        request = self.request
        if (header.request_id, header.attempt) != (request.request_id, request.attempt):
            raise WireError(f"item of {header.request_id}#{header.attempt}")
        if isinstance(header, FirstTokenHeader):
            return self._parse_first_token(header, item[1])
        if isinstance(header, StateHeader):
            return self._parse_state(header, item[1])
        if not isinstance(header, ChunkHeader):
            return header
        limit = self.seq.num_given_tokens
        payload = check_chunk(header, item[1], self._layout, self._next_start, limit)
        self._next_start = header.end
        kv = self._to_tensor(payload, header)
        num_tokens = header.end - header.start
        return Chunk(header.start, num_tokens, kv, payload.nbytes, header.copied)

    def _parse_state(self, header: StateHeader, payload: Payload | None) -> StatePiece:
        position = self.seq.num_given_tokens
        if self._next_start < position:
            raise WireError(f"state of a prompt whose KV has come up to {self._next_start} alone")
        start = self._next_state_byte
        piece = check_state_piece(header, payload, self._layout, start, position)
        self._next_state_byte += piece.nbytes
        return StatePiece(start, torch.from_dlpack(piece), header.copied)

    def _parse_first_token(self, header: FirstTokenHeader, payload: Payload | None) -> FirstToken:
        seq, vocab_size = self.seq, self._layout.vocab_size
        if self._has_first_token or header.token_id >= vocab_size:
            raise WireError(f"token 1 is repeated or unknown: {header.token_id}")
        if (header.logprobs is None) != (seq.sampling.logprobs is None):
            raise WireError("log-probabilities of token 1 are missing or were not asked for")
        scored = seq.sampling.needs_all_prompt_logits
        prompt = check_first_token(header, payload, seq.num_prompt_tokens, scored=scored)
        self._has_first_token = True
        return FirstToken(header, prompt)

    def _to_tensor(self, payload: Payload, header: ChunkHeader) -> torch.Tensor:
        dtype = BLOCK_DTYPES[self._layout.dtype]
        shape = self._layout.shape(header.end - header.start)
        # from_numpy warns of Ray's memory, which is not to be written to; a chunk is only read
        return torch.from_dlpack(payload).view(dtype).reshape(shape)
