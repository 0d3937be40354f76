"""Tenants, and the names of their requests."""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Tenant:
    """A caller. Tenants share no request ids and no cached KV; an admin sees the requests of all.

    `name` identifies the tenant and has no "/"; `is_admin` is the role of this caller.
    """

    name: str
    is_admin: bool = field(default=False, compare=False)

    def salt(self, cache_salt: str) -> str:
        """Return the salt for shared cached KV, different for each (name, cache_salt)."""
        return f"{self.name}/{cache_salt}" if self.name else cache_salt


# Every caller of a router without an access file. Such a router has no named tenants beside it.
ANONYMOUS = Tenant("", is_admin=True)

_current: ContextVar[Tenant] = ContextVar("tenant", default=ANONYMOUS)


def current_tenant() -> Tenant:
    """Return the caller of the gRPC call that this task serves."""
    return _current.get()


def set_current_tenant(tenant: Tenant) -> None:
    """Set the caller for this task, and for the tasks that it starts."""
    _current.set(tenant)


@dataclass(frozen=True, slots=True)
class RequestKey:
    """A request's name in this router. Each tenant has its own request ids."""

    tenant: Tenant
    request_id: str

    def __str__(self) -> str:
        return self.tenant.salt(self.request_id)


def find(
    entries: Mapping[RequestKey, object], tenant: Tenant, request_id: str
) -> RequestKey | None:
    """Return the tenant's own request of this id.

    An admin then gets any tenant's, by TENANT/ID or else by its id.
    """
    own = RequestKey(tenant, request_id)
    if own in entries:
        return own
    if not tenant.is_admin:
        return None
    by_name = (key for key in entries if str(key) == request_id)
    by_id = (key for key in entries if key.request_id == request_id)
    return next(by_name, None) or next(by_id, None)
