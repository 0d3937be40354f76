"""Whose a request is."""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who calls. Tenants share no request ids and no cached KV; an admin sees everybody's requests.

    The name is the tenant; `is_admin` is this caller's role. Names hold no "/".
    """

    name: str
    is_admin: bool = field(default=False, compare=False)

    def salt(self, cache_salt: str) -> str:
        """Under which its requests share cached KV: different for different (name, cache_salt)."""
        return f"{self.name}/{cache_salt}" if self.name else cache_salt


# Everybody, where nobody has to say who they are. No request of it ever meets a named tenant's on one router.
ANONYMOUS = Tenant("", is_admin=True)

_current: ContextVar[Tenant] = ContextVar("tenant", default=ANONYMOUS)


def current_tenant() -> Tenant:
    """The caller of the gRPC call that this task serves."""
    return _current.get()


def set_current_tenant(tenant: Tenant) -> None:
    """For this task, and those that it starts."""
    _current.set(tenant)


@dataclass(frozen=True, slots=True)
class RequestKey:
    """A request's name in this router: ids are each tenant's own."""

    tenant: Tenant
    request_id: str

    def __str__(self) -> str:
        return self.tenant.salt(self.request_id)


def find(
    entries: Mapping[RequestKey, object], tenant: Tenant, request_id: str
) -> RequestKey | None:
    """The tenant's own request of this id; for an admin then anybody's, by its id or TENANT/ID."""
    own = RequestKey(tenant, request_id)
    if own in entries:
        return own
    if not tenant.is_admin:
        return None
    return next((key for key in entries if request_id in (key.request_id, str(key))), None)
