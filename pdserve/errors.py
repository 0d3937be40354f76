"""All failures that pdserve names, as one tree.

PdserveError
├── RequestError                one request's failure; becomes a gRPC status with ErrorInfo(reason, field)
│   ├── InvalidRequestError     INVALID_ARGUMENT: the request can never work; `field` names the culprit
│   ├── UnauthenticatedError    UNAUTHENTICATED: no token or certificate, or one that is not known
│   ├── PermissionDeniedError   PERMISSION_DENIED: known, and not allowed to do that
│   ├── NotFoundError           NOT_FOUND: no such model, request or worker
│   ├── DuplicateRequestError   ALREADY_EXISTS: the request id is in use
│   ├── PreconditionError       FAILED_PRECONDITION: a change is not possible now, or an answer cannot go on
│   ├── OverloadedError         RESOURCE_EXHAUSTED: try again after `retry_after_s`
│   ├── AbortedError            ABORTED: workers died again and again while they ran it
│   ├── RequestCancelledError   CANCELLED: the client, or a Cancel call, ended it
│   ├── RequestTimeoutError     DEADLINE_EXCEEDED: the client's deadline passed
│   ├── UnavailableError        UNAVAILABLE: no router, no worker that can take it now, or its worker is gone
│   └── InternalError           INTERNAL: our bug
├── UnsupportedError            pdserve does not do this at all
└── SetupError                  a command could not start; `remedy` says what to do
    ├── UntrustedWorkerError    a worker showed its router no certificate of their deployment
    └── WorkerDiedError         a worker's process ended while it was waited for
        └── RayLostError        the Ray of a deployment that served is gone
"""

from enum import StrEnum


class Reason(StrEnum):
    """Closed list of ErrorInfo reasons."""

    EMPTY_PROMPT = "EMPTY_PROMPT"
    CONTEXT_EXCEEDED = "CONTEXT_EXCEEDED"
    KV_CAPACITY_EXCEEDED = "KV_CAPACITY_EXCEEDED"
    TOKEN_OUT_OF_VOCABULARY = "TOKEN_OUT_OF_VOCABULARY"  # noqa: S105 - not a password
    INVALID_FIELD = "INVALID_FIELD"
    CREDENTIALS_MISSING = "CREDENTIALS_MISSING"
    CREDENTIALS_INVALID = "CREDENTIALS_INVALID"
    ADMIN_REQUIRED = "ADMIN_REQUIRED"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    REQUEST_NOT_FOUND = "REQUEST_NOT_FOUND"
    WORKER_NOT_FOUND = "WORKER_NOT_FOUND"
    NOT_RESUMABLE = "NOT_RESUMABLE"
    DUPLICATE_REQUEST_ID = "DUPLICATE_REQUEST_ID"
    SCALE_REFUSED = "SCALE_REFUSED"
    SCALE_IN_PROGRESS = "SCALE_IN_PROGRESS"
    QUEUE_FULL = "QUEUE_FULL"
    DEADLINE_UNREACHABLE = "DEADLINE_UNREACHABLE"
    TENANT_LIMIT = "TENANT_LIMIT"
    SLOW_CONSUMER = "SLOW_CONSUMER"
    CANCELLED = "CANCELLED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    ROUTER_UNREACHABLE = "ROUTER_UNREACHABLE"  # of the client library; the others are the router's
    NO_WORKER = "NO_WORKER"
    WORKER_LOST = "WORKER_LOST"
    POISON = "POISON"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    NAN_LOGITS = "NAN_LOGITS"
    GRAMMAR_FAILED = "GRAMMAR_FAILED"
    NO_TOKEN_LEFT = "NO_TOKEN_LEFT"  # noqa: S105 - not a password
    STEP_FAILED = "STEP_FAILED"
    INTERNAL = "INTERNAL"

    @classmethod
    def parse(cls, text: str) -> "Reason":
        """Return the reason of that name; INTERNAL for a name that only a newer peer knows."""
        return next((reason for reason in cls if reason.value == text), cls.INTERNAL)


class PdserveError(Exception):
    """Root of the tree."""


class RequestError(PdserveError):
    """One request failed, and nothing else."""

    default_reason = Reason.INTERNAL

    def __init__(
        self, message: str, *, reason: Reason | None = None, field: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.field = field


class InvalidRequestError(RequestError):
    """The request can never work as it is."""

    default_reason = Reason.INVALID_FIELD


class UnauthenticatedError(RequestError):
    """The caller sent no credentials, or unknown ones."""

    default_reason = Reason.CREDENTIALS_INVALID


class PermissionDeniedError(RequestError):
    """The caller is known and not allowed to do that."""

    default_reason = Reason.ADMIN_REQUIRED


class NotFoundError(RequestError):
    """The model, request or worker does not exist."""

    default_reason = Reason.REQUEST_NOT_FOUND


class DuplicateRequestError(RequestError):
    """The id belongs to a live request."""

    default_reason = Reason.DUPLICATE_REQUEST_ID


class PreconditionError(RequestError):
    """The deployment cannot be changed like that now, or an answer cannot go on."""

    default_reason = Reason.SCALE_REFUSED


class OverloadedError(RequestError):
    """A queue is full, a limit is reached, or the deadline would pass in the queue; try again later."""

    default_reason = Reason.QUEUE_FULL

    def __init__(self, message: str, *, retry_after_s: float, reason: Reason | None = None) -> None:
        super().__init__(message, reason=reason)
        self.retry_after_s = retry_after_s


class AbortedError(RequestError):
    """The request was with several workers that died, and may be why."""

    default_reason = Reason.POISON


class RequestCancelledError(RequestError):
    """The client or a Cancel call ended the request."""

    default_reason = Reason.CANCELLED


class RequestTimeoutError(RequestError):
    """The client's deadline passed."""

    default_reason = Reason.DEADLINE_EXCEEDED


class UnavailableError(RequestError):
    """No worker can take the request, or the one that had it is gone."""

    default_reason = Reason.NO_WORKER


class InternalError(RequestError):
    """The fault is in pdserve."""


class UnsupportedError(PdserveError):
    """The operation does not exist in pdserve; the message names an alternative."""


class SetupError(PdserveError):
    """A command cannot start. The message is one line and names the key; `remedy` says what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message}. {remedy}" if remedy else message)
        self.remedy = remedy


class WorkerDiedError(SetupError):
    """A worker's process ended during its start; the message has the cause and its last output."""


class RayLostError(WorkerDiedError):
    """A deployment that served has lost its Ray, so nothing can be started again."""


class UntrustedWorkerError(SetupError):
    """A worker's certificate is not of the router's deployment, or it speaks no TLS."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"the worker at {address} shows no certificate of this deployment",
            "give routers and workers of a deployment the same security.internal_* settings",
        )
