"""The prompts of requests as token ids, bounded before they are tokenized."""

from collections.abc import Sequence
from dataclasses import dataclass

from pdserve.errors import InvalidRequestError, Reason
from router.edge.openai.chat_request import ChatRequest
from router.edge.openai.messages import to_template
from router.edge.openai.template_style import TemplateStyle, style_of
from router.edge.openai.tools import Tool
from router.intake.job import Limits
from router.intake.tokenizer import Tokenizer
from router.intake.vocabulary import check_vocabulary


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt: its text, as far as it was one, and its token ids."""

    text: str
    token_ids: tuple[int, ...]


def chat_prompt(
    asked: ChatRequest, tools: Sequence[Tool], tokenizer: Tokenizer, limits: Limits
) -> Prompt:
    """Render a chat and tokenize it. Takes a second a megabyte. Raises InvalidRequestError.

    Special tokens in the client's texts are plain text (intake/literal_text.py).
    """
    literal = tokenizer.literal_text
    style = style_of(tokenizer)
    turns = to_template(asked.messages, style)
    variables: dict[str, object] = {
        **asked.chat_template_kwargs,
        "messages": literal.protect_all(turns),
        "add_generation_prompt": asked.add_generation_prompt and not asked.continue_final_message,
    }
    if tools:
        variables["tools"] = literal.protect_all([_spec(tool, style) for tool in tools])
    if asked.documents is not None:
        variables["documents"] = literal.protect_all(asked.documents)
    if asked.reasoning_effort is not None:
        variables["reasoning_effort"] = asked.reasoning_effort
    text = tokenizer.render(variables)
    if asked.continue_final_message:
        text = _cut_behind(text, str(turns[-1]["content"]), tokenizer)
    _check_length(text, tokenizer, limits, asked.truncate_prompt_tokens)
    token_ids = tuple(tokenizer.encode_chat_text(text))
    return _kept(text, token_ids, asked.truncate_prompt_tokens)


def text_prompt(
    prompt: str | Sequence[int],
    tokenizer: Tokenizer,
    limits: Limits,
    *,
    add_special_tokens: bool,
    keep: int | None,
) -> Prompt:
    """Return the prompt of a completion. Raises InvalidRequestError."""
    if not isinstance(prompt, str):
        if any(token_id < 0 for token_id in prompt):
            raise InvalidRequestError("a token id is negative", field="prompt")
        if prompt:
            check_vocabulary(prompt, "prompt", limits.vocab_size, tokenizer)
        return _kept("", tuple(prompt), keep)
    if not prompt:
        return Prompt("", ())
    _check_length(prompt, tokenizer, limits, keep)
    encode = tokenizer.encode if add_special_tokens else tokenizer.encode_rendered
    return _kept(prompt, tuple(encode(prompt)), keep)


def _spec(tool: Tool, style: TemplateStyle) -> dict[str, object]:
    """Return a tool for the template, with the fields that the client set."""
    spec = tool.model_dump(exclude_unset=True)
    if style.needs_descriptions:
        spec["function"].setdefault("description", "")
    return spec


def _cut_behind(text: str, last: str, tokenizer: Tokenizer) -> str:
    """Return a rendered chat up to the end of its last message's text, which the model continues."""
    wanted = tokenizer.literal_text.protect(last)
    for end in (wanted, wanted.strip()):
        at = text.rfind(end)
        if end and at >= 0:
            return text[: at + len(end)]
    message = "the chat template does not show the last message as it is"
    raise InvalidRequestError(message, field="continue_final_message")


def _check_length(text: str, tokenizer: Tokenizer, limits: Limits, keep: int | None) -> None:
    """Refuse what is too long by any count, since tokenizing it would take seconds."""
    least = tokenizer.least_tokens(text)
    if keep is None and least >= limits.max_context_tokens:
        raise InvalidRequestError(
            f"the prompt has {least} tokens at least; the context holds {limits.max_context_tokens}",
            reason=Reason.CONTEXT_EXCEEDED,
            field="prompt",
        )


def _kept(text: str, token_ids: tuple[int, ...], keep: int | None) -> Prompt:
    return Prompt(text, token_ids if keep is None else token_ids[-keep:])
