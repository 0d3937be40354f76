"""Limits of each tenant's use. Plain numbers; the clock is the caller's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from common.router_config import TenantLimits
from pdserve.errors import OverloadedError, Reason

_RETRY_S = 1.0


@dataclass(slots=True)
class _Account:
    """Requests of a tenant in flight, and its bucket of tokens as of `at_s`."""

    num_requests: int = 0
    tokens: float = 0.0
    at_s: float = 0.0


class TenantAccounts:
    """Concurrent requests and tokens a minute of every tenant.

    Tokens are a bucket that holds a minute's worth and fills evenly. A prompt is paid at admission,
    the output at the request's end, so each request may overdraw the bucket by its answer. No
    request enters until the bucket is filled again. A request larger than the whole bucket enters
    when the bucket is full.
    """

    def __init__(self, defaults: TenantLimits, limits: Mapping[str, TenantLimits]) -> None:
        """Take `defaults` for all tenants but those whose names are in `limits`."""
        self._defaults = defaults
        self._limits = limits
        self._accounts: dict[str, _Account] = {}

    def weight(self, tenant: str) -> float:
        """Return the tenant's weight."""
        return self._of(tenant).weight

    def part(self, tenant: str, others: Iterable[str]) -> float:
        """Return the tenant's part, 0 to 1, of what it and the others share by weight."""
        return self.weight(tenant) / sum(map(self.weight, {tenant, *others}))

    def check(self, tenant: str, num_prompt_tokens: int, now_s: float) -> None:
        """Raise OverloadedError if the tenant's limits do not allow a request now.

        Costs the tenant nothing.
        """
        limits, account = self._of(tenant), self._account(tenant, now_s)
        most = limits.max_requests
        if most is not None and account.num_requests >= most:
            message = f"tenant {tenant or 'anonymous'} has {most} requests in flight, its limit"
            raise OverloadedError(message, retry_after_s=_RETRY_S, reason=Reason.TENANT_LIMIT)
        per_minute = limits.tokens_per_minute
        if per_minute is not None:
            missing = min(num_prompt_tokens, per_minute) - account.tokens
            if missing > 0:
                message = (
                    f"tenant {tenant or 'anonymous'} has used its {per_minute} tokens a minute"
                )
                retry_s = missing / per_minute * 60
                raise OverloadedError(message, retry_after_s=retry_s, reason=Reason.TENANT_LIMIT)

    def enter(self, tenant: str, num_prompt_tokens: int, now_s: float) -> None:
        """Count an admitted request and pay for its prompt; `leave` must follow."""
        account = self._account(tenant, now_s)
        if self._of(tenant).tokens_per_minute is not None:
            account.tokens -= num_prompt_tokens
        account.num_requests += 1

    def leave(self, tenant: str, num_output_tokens: int, now_s: float) -> None:
        """Count a request that ended, and pay for its output."""
        account = self._account(tenant, now_s)
        account.num_requests -= 1
        per_minute = self._of(tenant).tokens_per_minute
        if per_minute is not None:
            account.tokens -= num_output_tokens
        if not account.num_requests and account.tokens >= (per_minute or 0):
            del self._accounts[tenant]

    def _of(self, tenant: str) -> TenantLimits:
        return self._limits.get(tenant, self._defaults)

    def _account(self, tenant: str, now_s: float) -> _Account:
        """Return the account with its bucket filled up to now.

        Tenants are few: the access file names them.
        """
        per_minute = self._of(tenant).tokens_per_minute or 0
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = _Account(tokens=float(per_minute), at_s=now_s)
        filled = account.tokens + (now_s - account.at_s) * per_minute / 60
        account.tokens, account.at_s = min(filled, float(per_minute)), now_s
        return account
