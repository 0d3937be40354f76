"""A request of /v1/completions."""

from pdserve.errors import InvalidRequestError, Reason
from router.edge.openai.fields import refused
from router.edge.openai.sampling_fields import SamplingFields

MAX_PROMPTS = 64
DEFAULT_MAX_TOKENS = 16  # OpenAI's


class CompletionRequest(SamplingFields):
    """OpenAI's fields, and those that vLLM adds."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int = DEFAULT_MAX_TOKENS
    logprobs: int | None = None
    echo: bool = False
    best_of: int | None = None
    add_special_tokens: bool = True
    suffix: object = refused("the model continues text, it does not fill it in", "")
    prompt_embeds: object = refused("a prompt is text or token ids")

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts, each a text or token ids. Raises InvalidRequestError."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and all(isinstance(part, int) for part in self.prompt):
            return [[part for part in self.prompt if isinstance(part, int)]]
        found = [part for part in self.prompt if isinstance(part, str | list)]
        if not found:
            message = "the prompt is empty"
            raise InvalidRequestError(message, reason=Reason.EMPTY_PROMPT, field="prompt")
        if len(found) > MAX_PROMPTS:
            raise InvalidRequestError(f"more than {MAX_PROMPTS} prompts", field="prompt")
        return found

    def check(self) -> None:
        """Refuse what contradicts itself. Raises InvalidRequestError."""
        super().check()
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise InvalidRequestError("differs from n: no answers are left out", field="best_of")
        if self.echo and self.logprobs is not None:
            message = "does not go with logprobs; ask for prompt_logprobs"
            raise InvalidRequestError(message, field="echo")
