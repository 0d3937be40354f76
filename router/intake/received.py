"""Output that a client has already, of a request that another router ran."""

from dataclasses import dataclass

from pdserve.errors import InvalidRequestError
from pdserve.v1 import inference_pb2
from router.intake.sampling import parse_num_choices
from router.intake.tokenizer import Tokenizer
from router.intake.vocabulary import check_vocabulary


@dataclass(frozen=True, slots=True)
class Received:
    """Tokens that have come of each choice, and the choices that have ended; of a new request nothing."""

    token_ids: tuple[tuple[int, ...], ...] = ()  # by choice; empty for one that has ended
    ended: frozenset[int] = frozenset()

    def of(self, choice: int) -> tuple[int, ...]:
        """Return the tokens of a choice."""
        return self.token_ids[choice] if self.token_ids else ()

    @property
    def num_tokens(self) -> int:
        """Number of tokens of all choices that go on."""
        return sum(map(len, self.token_ids))

    @property
    def longest(self) -> tuple[int, ...]:
        """Tokens of the choice that has most."""
        return max(self.token_ids, key=len, default=())

    @property
    def num_common(self) -> int:
        """Number of tokens that every choice has which goes on."""
        going_on = [len(ids) for n, ids in enumerate(self.token_ids) if n not in self.ended]
        return min(going_on, default=0)


NOTHING = Received()


def parse_received(
    message: inference_pb2.GenerateRequest, max_tokens: int, vocab_size: int, tokenizer: Tokenizer
) -> Received:
    """Return what a client says that it has, checked. Raises InvalidRequestError.

    A stop text in it is found later, by router/journey/output_text.py.
    """
    if not message.received:
        return NOTHING
    if not message.sampling.HasField("seed"):
        raise InvalidRequestError(
            "goes with `received`: take it from `sampling` of the first response",
            field="sampling.seed",
        )
    num_choices = parse_num_choices(message.sampling)
    token_ids: list[tuple[int, ...]] = [()] * num_choices
    seen, ended = set[int](), set[int]()
    for part in message.received:
        if part.choice >= num_choices or part.choice in seen:
            found = "comes twice" if part.choice in seen else f"is not in [0, {num_choices})"
            raise InvalidRequestError(f"{part.choice} {found}", field="received.choice")
        seen.add(part.choice)
        _check_tokens(part, max_tokens, vocab_size, tokenizer)
        if part.finished:
            ended.add(part.choice)
        else:
            token_ids[part.choice] = tuple(part.token_ids)
    if len(ended) == num_choices:
        raise InvalidRequestError("every choice has ended", field="received.finished")
    return Received(tuple(token_ids), frozenset(ended))


def _check_tokens(
    part: inference_pb2.ReceivedOutput, max_tokens: int, vocab_size: int, tokenizer: Tokenizer
) -> None:
    field, num_tokens = "received.token_ids", len(part.token_ids)
    if num_tokens + (not part.finished) > max_tokens:
        raise InvalidRequestError(
            f"{num_tokens} tokens leave nothing of max_tokens {max_tokens}", field=field
        )
    if num_tokens:
        check_vocabulary(part.token_ids, field, vocab_size, tokenizer)
