"""A whole answer, put together from the messages of its stream."""

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
        """ "stop", "length", or nothing while it goes on."""
        return FINISH_NAMES.get(self.finished.reason, "")


@dataclass(slots=True)
class Completion:
    """The answer to a request: `choices` has one entry, or `n`. The properties are those of the first."""

    request_id: str = ""
    choices: list[Continuation] = field(default_factory=list)

    def add(self, response: inference_pb2.GenerateResponse) -> None:
        """Take the next message of the stream in."""
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
        """The text."""
        return self.choices[0].text

    @property
    def token_ids(self) -> list[int]:
        """The tokens, the one that ended it included."""
        return self.choices[0].token_ids

    @property
    def finish_reason(self) -> str:
        """ "stop" or "length"."""
        return self.choices[0].finish_reason

    @property
    def usage(self) -> inference_pb2.Usage:
        """Tokens of the prompt, of the output, and of the prompt those that were cached."""
        return self.choices[0].finished.usage
