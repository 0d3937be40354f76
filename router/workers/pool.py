"""The workers that a router knows."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace

from common.certificates import OPEN, WorkerAccess
from common.messages import Role, WorkerInfo, WorkerLoad
from common.profile import WorkerProfile
from common.router_config import RouterConfig
from pdserve.errors import RequestTimeoutError, UnavailableError
from router.routing.prediction import Ask, Candidate, prompt_s
from router.routing.prefix_index import PromptKeys
from router.routing.prompt_order import Entrant
from router.workers.compatibility import check_compatibility
from router.workers.link import WorkerLink
from router.workers.members import Members, wait_connected
from router.workers.membership import Member, Membership
from router.workers.sent_prompts import SentPrompts
from router.workers.view import WorkerState, WorkerView
from router.workers.worker_use import WorkerUse

_POLL_S = 0.02
_SETTLE_S = 0.1  # for requests that another router sends before it knows that a worker drains


class WorkerPool:
    """Links to the workers, the prompts sent to them, and the requests that need them."""

    def __init__(
        self, addresses: Sequence[str], config: RouterConfig, access: WorkerAccess = OPEN
    ) -> None:
        self._config = config
        self._access = access
        self._router_id = secrets.token_hex(8)  # the workers know the router's connections by it
        self.sent_prompts = SentPrompts()
        self.worker_use = WorkerUse()
        self._members = Members(self._link_to, addresses)
        self._links = self._members.links
        self._draining: set[str] = set()

    def start(self) -> None:
        """Connect to every worker, in the background."""
        self._members.start()

    async def close(self) -> None:
        """Disconnect from all."""
        await self._members.close()

    def follow(self, membership: Membership) -> None:
        """Take a newer membership over: a worker that started again is found at its new address."""
        for link in self._members.follow(membership):
            if link.info is not None and link.info.name in self._draining:
                link.set_draining(True)

    def member(self, name: str) -> Member | None:
        """Return a worker as its deployment tells of it; None if it tells of none of that name."""
        return self._members.find(name)

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until all are connected. Raises SetupError (refused), UnavailableError (timeout)."""
        await wait_connected(self._links, timeout_s)

    async def add(self, addresses: Sequence[str], timeout_s: float) -> None:
        """Add workers, and return when all are connected. Raises errors as `wait_ready` does.

        After an error none of them is left.
        """
        links = self._members.add(addresses)
        try:
            await wait_connected(links, timeout_s)
        except BaseException:
            for link in links:
                await self._members.remove(link)
            raise

    async def remove(self, name: str) -> None:
        """Forget a worker. Requests that it still has end with WORKER_LOST."""
        link = self.link(name)
        self._draining.discard(name)
        await self._members.remove(link)

    def drain(self, name: str) -> None:
        """Send a worker nothing new, from this router and all others."""
        self._draining.add(name)
        self.link(name).set_draining(True)

    def evict(self, name: str) -> None:
        """Have this router's requests at a worker go on elsewhere."""
        self.link(name).evict()

    def undrain(self, name: str) -> None:
        """Send a worker new requests again."""
        self._draining.discard(name)
        with contextlib.suppress(UnavailableError):  # the worker has left
            self.link(name).set_draining(False)

    async def wait_drained(self, name: str, timeout_s: float) -> None:
        """Wait until no request, of any router, needs the worker. Raises RequestTimeoutError."""
        num_left = self.worker_use.num_requests(name)
        try:
            async with asyncio.timeout(timeout_s):
                idle_since_s = time.monotonic()
                while time.monotonic() - idle_since_s < _SETTLE_S:
                    await asyncio.sleep(_POLL_S)
                    num_left = self._num_needing(name)
                    if num_left:
                        idle_since_s = time.monotonic()
        except TimeoutError:
            raise RequestTimeoutError(
                f"{name} still had {num_left} requests when the time for draining was over"
            ) from None

    async def wait_role(self, name: str, role: Role, timeout_s: float) -> None:
        """Wait until a worker has introduced itself with a role. Raises UnavailableError."""
        try:
            async with asyncio.timeout(timeout_s):
                while not (self.role(name) is role and self.link(name).is_connected):
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise UnavailableError(f"{name} is no {role} worker after {timeout_s} s") from None

    def views(self) -> list[WorkerView]:
        """Return all workers that ever introduced themselves, by role (prefill first) and name."""
        views = [self._view(link, link.info) for link in self._links if link.info is not None]
        return sorted(views, key=lambda v: (v.info.role != Role.PREFILL, v.info.name))

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the workers' model; "" before the first introduced itself."""
        infos = (link.info for link in self._links)
        return next((info.model_fingerprint for info in infos if info is not None), "")

    def is_ready(self) -> bool:
        """Return True if some decode worker can take work now."""
        decoding = (link for link in self._links if link.info is not None and _decodes(link.info))
        return any(self._state(link) is WorkerState.READY for link in decoding)

    def candidates(self, role: Role, keys: PromptKeys, ask: Ask) -> list[Candidate]:
        """Return the workers of a role that can take work now, priced for a prompt of these keys."""
        found = []
        for link in self._links:
            if link.info is None or link.info.role != role:
                continue
            if self._state(link) is WorkerState.READY:
                found.append(self._candidate(link, link.info, keys, ask))
        return found

    def profiles(self, role: Role) -> dict[str, WorkerProfile]:
        """Return the profiles of a role's workers that can take work now, by name."""
        infos = ((link, link.info) for link in self._links if link.info is not None)
        return {
            info.name: replace(info.profile, correction=link.load.correction)
            for link, info in infos
            if info.role == role and self._state(link) is WorkerState.READY
        }

    def link(self, name: str) -> WorkerLink:
        """Return the link to a worker by name. Raises UnavailableError."""
        return self._named(name)[0]

    def role(self, name: str) -> Role:
        """Return the present role of a worker by name. Raises UnavailableError."""
        return self._named(name)[1].role

    def min_kv_capacity_tokens(self) -> int:
        """Return the number of positions in the smallest decode worker's KV memory."""
        loads = [view.load for view in self.views() if _decodes(view.info)]
        return min((load.blocks_total * load.block_size for load in loads), default=0)

    def _num_needing(self, name: str) -> int:
        """Return the requests that need a worker, at least 1 until it reports that it drains."""
        link, own = self.link(name), self.worker_use.num_requests(name)
        if not link.is_connected:
            return own
        load = link.load
        there = max(load.num_submitted, load.num_running + load.num_waiting)
        return max(own, there, int(not load.is_draining))

    def _candidate(
        self, link: WorkerLink, info: WorkerInfo, keys: PromptKeys, ask: Ask
    ) -> Candidate:
        load, sent = link.load, self.sent_prompts
        profile = replace(info.profile, correction=load.correction)
        num_cached = link.prefixes.num_tokens(keys, load.block_size)
        entrant = Entrant(ask.priority, prompt_s(profile, ask.num_prompt_tokens, num_cached))
        ahead = sent.ahead(info.name, entrant.rank(time.monotonic()))
        num_sent = sent.num_tokens(info.name)
        num_overtaken = num_sent - ahead.num_tokens
        return Candidate(
            name=info.name,
            num_sequences=max(load.num_running + load.num_waiting, link.num_live),
            backlog_tokens=max(load.backlog_tokens, num_sent) - num_overtaken,
            overtaken_tokens=num_overtaken,
            num_ahead=ahead.num_prompts,
            blocks_free=load.blocks_free,
            blocks_total=load.blocks_total,
            block_size=load.block_size,
            credit_bytes=load.credit_bytes,
            credit_wanted_bytes=load.credit_wanted_bytes,
            num_cached_tokens=num_cached,
            profile=profile,
        )

    def _view(self, link: WorkerLink, info: WorkerInfo) -> WorkerView:
        state, member = self._state(link), self.member(info.name)
        note = member.retired if member is not None else ""
        # a process that is gone holds nothing of what its last report says
        is_gone = state in (WorkerState.RESTARTING, WorkerState.RETIRED)
        load = WorkerLoad() if is_gone else link.load
        more = note, self._members.num_restarts(info.name), link.is_silent
        return WorkerView(info, load, state, link.address, link.is_connected, *more)

    def _state(self, link: WorkerLink) -> WorkerState:
        if not link.is_connected:
            return self._members.state_of_lost(link)
        if link.is_silent:
            return WorkerState.UNREACHABLE
        is_drained_here = link.info is not None and link.info.name in self._draining
        if is_drained_here or link.load.is_draining:
            return WorkerState.DRAINING
        is_stalled = link.load.progress_age_s > self._config.stalled_after_s
        return WorkerState.STALLED if is_stalled else WorkerState.READY

    def _named(self, name: str) -> tuple[WorkerLink, WorkerInfo]:
        for link in self._links:
            if link.info is not None and link.info.name == name:
                return link, link.info
        raise UnavailableError(f"no worker named {name}")

    def _link_to(self, address: str) -> WorkerLink:
        return WorkerLink(
            address,
            self._check_compatibility,
            self._router_id,
            self._access,
            self.worker_use.lose_prefill,
        )

    def _check_compatibility(self, info: WorkerInfo) -> None:
        for link in self._links:
            if link.info is not None:
                check_compatibility(info, link.info)


def _decodes(info: WorkerInfo) -> bool:
    return info.role == Role.DECODE
