"""Links to the workers, kept in line with the deployment's membership.

1. A member with an address that no link has gets a link. It takes the place of the link that its name
   had: the process there is gone.
2. A worker that leaves the membership leaves here too.
3. A worker that this router has removed does not come back with a membership that still names it.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from pdserve.errors import UnavailableError
from router.workers.link import WorkerLink
from router.workers.membership import Member, Membership
from router.workers.view import WorkerState

_POLL_S = 0.02


class Members:
    """Owner of the links. Call all methods on the router's event loop."""

    def __init__(self, make_link: Callable[[str], WorkerLink], addresses: Sequence[str]) -> None:
        self._make_link = make_link
        self._membership = Membership()
        self._removed: set[str] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._num_restarts = Counter[str]()
        self.links = [make_link(address) for address in addresses]

    def start(self) -> None:
        """Connect to every worker, in the background."""
        for link in self.links:
            link.start()

    async def close(self) -> None:
        """Disconnect from all."""
        await asyncio.gather(*(link.close() for link in self.links), *self._closing)

    def find(self, name: str) -> Member | None:
        """Return the member of that name; None if the membership does not list it."""
        return self._membership.find(name)

    def num_restarts(self, name: str) -> int:
        """Return how often another process took this name since the router started."""
        return self._num_restarts[name]

    def state_of_lost(self, link: WorkerLink) -> WorkerState:
        """Return the state of a worker without a connection."""
        member = self.find(link.info.name) if link.info is not None else None
        if member is None or member.address:
            return WorkerState.UNREACHABLE
        return WorkerState.RETIRED if member.retired else WorkerState.RESTARTING

    def add(self, addresses: Sequence[str]) -> list[WorkerLink]:
        """Return links to these addresses: those that exist, and new ones that connect."""
        return [self._at(address) or self._connect(address) for address in addresses]

    async def remove(self, link: WorkerLink) -> None:
        """Forget a worker for good, and disconnect."""
        if (name := self._name(link)) is not None:
            self._removed.add(name)
        self.links.remove(link)
        await link.close()

    def follow(self, membership: Membership) -> list[WorkerLink]:
        """Take a newer membership over, and return the links that are new. Ignores an older one."""
        if membership.version <= self._membership.version:
            return []
        before, self._membership = self._membership, membership
        for member in before.members:
            if membership.find(member.name) is None and (link := self._named(member)) is not None:
                self._leave(link)
        self._removed &= {member.name for member in membership.members}
        for member in membership.members:
            was = before.find(member.name)
            if not member.address and was and was.address and (link := self._named(was)):
                self._bury(link)
        missing = [member for member in membership.members if self._is_missing(member)]
        return [self._replace(member, before.find(member.name)) for member in missing]

    def _is_missing(self, member: Member) -> bool:
        is_there = not member.address or self._at(member.address) is not None
        return not is_there and member.name not in self._removed

    def _replace(self, member: Member, before: Member | None) -> WorkerLink:
        old = self._named(before or member)
        new = self._connect(member.address)
        if old is not None:
            self._num_restarts[member.name] += 1
            new.info = old.info  # until it introduces itself, so that the name stays known
            self.links.remove(old)
            self._close(old, has_died=True)
        return new

    def _connect(self, address: str) -> WorkerLink:
        link = self._make_link(address)
        self.links.append(link)
        link.start()
        return link

    def _bury(self, link: WorkerLink) -> None:
        """Close the link to a process that is gone; it stays for its name, if that is known."""
        if link.info is None:
            self.links.remove(link)
        self._close(link, has_died=True)

    def _leave(self, link: WorkerLink) -> None:
        self.links.remove(link)
        self._close(link, has_died=False)

    def _close(self, link: WorkerLink, *, has_died: bool) -> None:
        closing = asyncio.create_task(link.close(has_died=has_died))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _at(self, address: str) -> WorkerLink | None:
        """Return the link to an address; a new process may have that of one that is gone."""
        links = (link for link in self.links if link.address == address and not link.is_closing)
        return next(links, None)

    def _named(self, member: Member) -> WorkerLink | None:
        """Return the link of a member, by its name or, before it introduced itself, its address."""
        return next((link for link in self.links if self._is_of(link, member)), None)

    def _is_of(self, link: WorkerLink, member: Member) -> bool:
        return (
            link.address == member.address if link.info is None else link.info.name == member.name
        )

    def _name(self, link: WorkerLink) -> str | None:
        if link.info is not None:
            return link.info.name
        members = (m for m in self._membership.members if m.address == link.address)
        return next((member.name for member in members), None)


async def wait_connected(links: Sequence[WorkerLink], timeout_s: float) -> None:
    """Wait until all are connected. Raises SetupError (refused), UnavailableError (timeout)."""
    try:
        async with asyncio.timeout(timeout_s):
            while not all(link.is_connected for link in links):
                for link in links:
                    if link.refusal is not None:
                        raise link.refusal
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        missing = [link.address for link in links if not link.is_connected]
        raise UnavailableError(f"workers not reachable in {timeout_s} s: {missing}") from None
