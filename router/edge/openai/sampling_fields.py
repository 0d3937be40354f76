"""The sampling fields that chats and completions share: OpenAI's, and those that vLLM adds."""

import json
from typing import Annotated, ClassVar

from pydantic import Field

from pdserve.errors import InvalidRequestError
from pdserve.v1 import inference_pb2
from router.edge.openai.fields import OpenAiModel, Unread, refused, without_effect
from router.intake.generation_config import SamplingDefaults
from router.intake.wire_values import json_object, to_int32

_Integer = Annotated[int, Field(strict=True)]


class StreamOptions(OpenAiModel):
    """OpenAI's stream_options."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: object = without_effect("no padding is added to events")


class JsonSchema(OpenAiModel):
    """The schema of a response_format."""

    name: str = ""
    description: str = ""
    schema_: dict[str, object] = Field(default_factory=dict, alias="schema")
    strict: object = without_effect("a schema is always kept to the letter")


class ResponseFormat(OpenAiModel):
    """OpenAI's response_format."""

    type: str
    json_schema: JsonSchema | None = None


class StructuredOutputs(OpenAiModel):
    """vLLM's structured_outputs: exactly one of its forms."""

    json_: dict[str, object] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_fallback: object = without_effect("there is one grammar engine, llguidance")
    disable_any_whitespace: object = without_effect("between JSON tokens stands at most one space")
    disable_additional_properties: object = refused("say it in the schema", False)
    whitespace_pattern: object = refused("between JSON tokens stands at most one space")
    structural_tag: object = refused("use tools")


class SamplingFields(Unread):
    """Fields that a chat and a completion have in common."""

    prompt_field: ClassVar[str] = "prompt"
    logprobs_field: ClassVar[str] = "logprobs"  # the one with the number

    model: str = ""
    temperature: float | None = None
    top_p: float | None = None
    n: _Integer | None = None
    stop: str | list[str] | None = None
    seed: _Integer | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: dict[str, float] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    # vLLM's
    top_k: _Integer | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: _Integer = 0
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    structured_outputs: StructuredOutputs | None = None
    prompt_logprobs: _Integer | None = None
    truncate_prompt_tokens: _Integer | None = None
    include_stop_str_in_output: bool = False
    return_token_ids: bool = False
    bad_words: list[str] | None = None
    allowed_token_ids: list[int] | None = None
    cache_salt: str = ""
    priority: _Integer = 0
    request_id: str = ""
    # known, and refused where they ask for something
    skip_special_tokens: object = refused("answers leave special tokens out", True)
    use_beam_search: object = refused("there is no beam search", False)
    length_penalty: object = refused("there is no beam search", 1, 1.0)
    guided_json: object = refused("use structured_outputs.json")
    guided_regex: object = refused("use structured_outputs.regex")
    guided_choice: object = refused("use structured_outputs.choice")
    guided_grammar: object = refused("use structured_outputs.grammar")
    logits_processors: object = refused("no code of a client runs here", [])
    kv_transfer_params: object = refused("the router places prefill and decode")
    vllm_xargs: object = refused("this server has none", {})
    return_tokens_as_token_ids: object = refused("use return_token_ids", False)
    # known, and without effect
    spaces_between_special_tokens: object = without_effect("answers leave special tokens out")

    @property
    def includes_usage(self) -> bool:
        """Tell whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    def check(self) -> None:
        """Refuse what contradicts itself. Raises InvalidRequestError."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequestError("goes with stream: true only", field="stream_options")
        if self.stream and self.prompt_logprobs is not None:
            raise InvalidRequestError("does not go with stream: true", field="prompt_logprobs")
        if self.truncate_prompt_tokens is not None and self.truncate_prompt_tokens < 1:
            raise InvalidRequestError("must be 1 or more", field="truncate_prompt_tokens")


def to_sampling(
    asked: SamplingFields, defaults: SamplingDefaults, max_tokens: int | None
) -> inference_pb2.SamplingParams:
    """Return the pdserve.v1 options of a request. Raises InvalidRequestError.

    An unset temperature is the model's default, else 1 as in OpenAI's reference.
    """
    temperature = asked.temperature
    if temperature is None:
        temperature = 1.0 if defaults.temperature is None else defaults.temperature
    top_k = asked.top_k
    sampling = inference_pb2.SamplingParams(
        temperature=temperature,
        top_p=asked.top_p,
        top_k=0 if top_k is None else to_int32(max(top_k, 0) if top_k >= -1 else top_k),
        no_top_k=top_k in (0, -1),
        min_p=asked.min_p or 0.0,
        no_min_p=asked.min_p == 0,
        frequency_penalty=asked.frequency_penalty,
        presence_penalty=asked.presence_penalty,
        repetition_penalty=asked.repetition_penalty,
        max_tokens=None if max_tokens is None else to_int32(max_tokens),
        min_tokens=to_int32(asked.min_tokens),
        stop=_stops(asked),
        stop_token_ids=[_token_id(i, "stop_token_ids") for i in asked.stop_token_ids or ()],
        ignore_eos=asked.ignore_eos,
        n=None if asked.n is None else to_int32(asked.n),
        prompt_logprobs=None if asked.prompt_logprobs is None else to_int32(asked.prompt_logprobs),
        seed=None if asked.seed is None else asked.seed % 2**64,
        structured_output=structured_output(asked),
        bad_words=asked.bad_words,
        allowed_token_ids=[
            _token_id(i, "allowed_token_ids") for i in asked.allowed_token_ids or ()
        ],
    )
    for key, bias in (asked.logit_bias or {}).items():
        if not key.isdecimal():
            raise InvalidRequestError(f"{key!r} is no token id", field="logit_bias")
        sampling.logit_bias[_token_id(int(key), "logit_bias")] = bias
    return sampling


def structured_output(asked: SamplingFields) -> inference_pb2.StructuredOutput | None:
    """Return the form that the output has to keep; None for any. Raises InvalidRequestError."""
    form = None if asked.response_format is None else _of_response_format(asked.response_format)
    if asked.structured_outputs is None:
        return form
    if form is not None:
        message = "does not go with response_format"
        raise InvalidRequestError(message, field="structured_outputs")
    return _of_structured_outputs(asked.structured_outputs)


def _of_response_format(asked: ResponseFormat) -> inference_pb2.StructuredOutput | None:
    if asked.type == "text":
        return None
    if asked.type == "json_object":
        return json_object()
    if asked.type != "json_schema":
        message = f"{asked.type!r} is none of text, json_object, json_schema"
        raise InvalidRequestError(message, field="response_format.type")
    if asked.json_schema is None:
        raise InvalidRequestError("is missing", field="response_format.json_schema")
    return inference_pb2.StructuredOutput(json_schema=json.dumps(asked.json_schema.schema_))


def _of_structured_outputs(asked: StructuredOutputs) -> inference_pb2.StructuredOutput:
    forms: list[inference_pb2.StructuredOutput] = []
    if asked.json_ is not None:
        schema = asked.json_ if isinstance(asked.json_, str) else json.dumps(asked.json_)
        forms.append(inference_pb2.StructuredOutput(json_schema=schema))
    if asked.regex is not None:
        forms.append(inference_pb2.StructuredOutput(regex=asked.regex))
    if asked.choice is not None:
        choice = inference_pb2.Choice(texts=asked.choice)
        forms.append(inference_pb2.StructuredOutput(choice=choice))
    if asked.grammar is not None:
        forms.append(inference_pb2.StructuredOutput(grammar=asked.grammar))
    if asked.json_object:
        forms.append(json_object())
    if len(forms) != 1:
        message = "needs exactly one of json, regex, choice, grammar, json_object"
        raise InvalidRequestError(message, field="structured_outputs")
    return forms[0]


def _stops(asked: SamplingFields) -> list[str]:
    if asked.stop is None:
        return []
    return [asked.stop] if isinstance(asked.stop, str) else asked.stop


def _token_id(token_id: int, field: str) -> int:
    if not 0 <= token_id < 2**32:
        raise InvalidRequestError(f"{token_id} is no token id", field=field)
    return token_id
