"""Builder of one line's request from its prompt, its own fields and the command's flags."""

from collections.abc import Mapping

from cli.batch.fields import SAMPLING_KEYS, apply_fields, as_integer, as_text
from cli.requests import Ask
from pdserve.prompts import Prompt
from pdserve.v1 import inference_pb2

BESIDE_KEYS = frozenset({"model", "cache_salt", "priority"})


def make_ask(
    prompt: Prompt,
    flags: inference_pb2.SamplingParams,
    values: Mapping[str, object],
    request_id: str = "",
) -> Ask:
    """Make a request of a line; `values` are sampling fields and BESIDE_KEYS.

    Other values are ignored. Raises ValueError.
    """
    said = {name: value for name, value in values.items() if value is not None}
    sampling = inference_pb2.SamplingParams()
    sampling.CopyFrom(flags)
    apply_fields(sampling, {name: value for name, value in said.items() if name in SAMPLING_KEYS})
    ask = Ask(
        prompt,
        sampling,
        request_id,
        model=as_text("model", said.get("model", "")),
        cache_salt=as_text("cache_salt", said.get("cache_salt", "")),
        priority=as_integer("priority", said.get("priority", 0)),
    )
    ask.check()
    return ask
