"""Output that has come of a resumable request, from which any router of the deployment can go on."""

from pdserve.errors import InternalError
from pdserve.v1 import inference_pb2


class OutputSoFar:
    """Tokens of each choice so far. Their text need not be kept: it follows from the tokens."""

    def __init__(self, request: inference_pb2.GenerateRequest) -> None:
        """Begin with the request's own `received`, which another router has sent."""
        self._request = request
        own = inference_pb2.GenerateRequest(received=request.received)  # a copy
        self._parts = {part.choice: part for part in own.received}
        self._sampling: inference_pb2.SamplingParams | None = None  # as the first router used it

    def add(self, response: inference_pb2.GenerateResponse) -> None:
        """Add the next message. Raises InternalError if a token is missing before it, or comes twice."""
        part = self._parts.get(response.choice)
        if part is None:
            part = inference_pb2.ReceivedOutput(choice=response.choice)
            self._parts[response.choice] = part
        if response.index != len(part.token_ids):
            expected = len(part.token_ids)
            raise InternalError(f"token {expected} was to come, and {response.index} came")
        part.token_ids.extend(response.token_ids)
        if response.HasField("finished"):
            part.finished = True
        if response.HasField("sampling"):
            self._sampling = response.sampling

    @property
    def is_whole(self) -> bool:
        """True once every choice has ended."""
        sampling = self._request.sampling
        num_choices = sampling.n if sampling.HasField("n") else 1
        return sum(part.finished for part in self._parts.values()) == num_choices

    def ask_for_rest(self) -> inference_pb2.GenerateRequest | None:
        """Return the request for what is missing; None if the first router did not say how to go on."""
        if self._sampling is None:
            return None
        request = inference_pb2.GenerateRequest()
        request.CopyFrom(self._request)
        request.sampling.MergeFrom(self._sampling)
        del request.received[:]
        for part in self._parts.values():
            token_ids = () if part.finished else part.token_ids
            request.received.add(choice=part.choice, token_ids=token_ids, finished=part.finished)
        return request
