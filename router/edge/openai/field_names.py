"""The names that a request of OpenAI's API has for the fields of pdserve.v1, for refusals."""

from collections.abc import Iterator
from contextlib import contextmanager

from pdserve.errors import RequestError
from router.edge.openai.sampling_fields import SamplingFields

_SAMPLING = "sampling."
_FORM = "sampling.structured_output"
_PROMPTS = {"prompt", "tokens", "tokens.token_ids"}


@contextmanager
def own_names(asked: SamplingFields) -> Iterator[None]:
    """Name the field of each RequestError raised inside as the request does."""
    try:
        yield
    except RequestError as error:
        if error.field is not None:
            error.field = own_name(asked, error.field)
        raise


def own_name(asked: SamplingFields, field: str) -> str:
    """Return the request's name for a field."""
    if field in _PROMPTS:
        return asked.prompt_field
    if field.startswith(_FORM):
        stated = [name for name in ("structured_outputs", "response_format") if _has(asked, name)]
        return stated[0] if stated else "tools"  # whose calls are forced
    name = field.removeprefix(_SAMPLING)
    if name == "max_tokens":  # without one the prompt alone is too long
        known = ("max_tokens", "max_completion_tokens")
        return next((n for n in known if _has(asked, n)), asked.prompt_field)
    return asked.logprobs_field if name == "logprobs" else name


def _has(asked: SamplingFields, name: str) -> bool:
    return name in asked.model_fields_set
