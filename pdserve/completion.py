"""Whole answers, put together from the messages of their streams."""

from dataclasses import dataclass, field

from pdserve.v1 import inference_pb2

FINISH_NAMES = {
    inference_pb2.FINISH_REASON_STOP: "stop",
    inference_pb2.FINISH_REASON_LENGTH: "length",
}


@dataclass(slots=True)
class Continuation:
    """One continuation of the prompt."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[inference_pb2.TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[inference_pb2.TokenLogprobs] = field(default_factory=list)
    finished: inference_pb2.Finished = field(default_factory=inference_pb2.Finished)

    @property
    def finish_reason(self) -> str:
        """Reason of the end, "stop" or "length"; empty while the continuation runs."""
        return FINISH_NAMES.get(self.finished.reason, "")


@dataclass(slots=True)
class Completion:
    """Answer to a request: `choices` has `n` entries; the properties are those of the first."""

    request_id: str = ""
    choices: list[Continuation] = field(default_factory=list)

    def add(self, response: inference_pb2.GenerateResponse) -> None:
        """Add the next message of the stream."""
        self.request_id = response.request_id
        while len(self.choices) <= response.choice:
            self.choices.append(Continuation())
        choice = self.choices[response.choice]
        choice.text += response.text
        choice.token_ids.extend(response.token_ids)
        choice.logprobs.extend(response.logprobs)
        choice.prompt_logprobs.extend(response.prompt_logprobs)
        if response.HasField("finished"):
            choice.finished = response.finished

    @property
    def text(self) -> str:
        """Text of the first choice."""
        return self.choices[0].text

    @property
    def token_ids(self) -> list[int]:
        """Tokens of the first choice, the one that ended it included."""
        return self.choices[0].token_ids

    @property
    def finish_reason(self) -> str:
        """Reason of the first choice's end, "stop" or "length"."""
        return self.choices[0].finish_reason

    @property
    def usage(self) -> inference_pb2.Usage:
        """Number of tokens of the prompt, of the output, and of the prompt's cached part."""
        return self.choices[0].finished.usage
