"""Tests of the links of a membership: deaths that it tells, and addresses that come again."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from common.messages import Role, SamplingParams, WorkerInfo, WorkFailure, WorkRequest
from router.workers.link import WorkerLink
from router.workers.members import Members
from router.workers.membership import Member, Membership
from router.workers.work_stream import WorkStream

NOWHERE, ELSEWHERE = "127.0.0.1:1", "127.0.0.1:2"


class Deployment:
    """Members, and what their links tell of losses."""

    def __init__(self) -> None:
        self.lost: list[tuple[str, bool]] = []
        self.members = Members(self._link_to, [])
        self._versions = iter(range(1, 100))

    def tell(self, *members: Member) -> None:
        self.members.follow(Membership(next(self._versions), members))

    def serve(self, address: str) -> WorkerLink:
        """Let the process at an address introduce itself as decode-0."""
        (link,) = (link for link in self.members.links if link.address == address)
        link.info = WorkerInfo("decode-0", Role.DECODE, 1, "m", "tiny", 512, 259)
        link.is_connected = True
        return link

    def _link_to(self, address: str) -> WorkerLink:
        return WorkerLink(address, lambda _: None, "me", on_lost=self._note_loss)

    def _note_loss(self, name: str, failure: WorkFailure) -> None:
        self.lost.append((name, failure.is_death))


@pytest.fixture
async def deployment() -> AsyncIterator[Deployment]:
    made = Deployment()
    yield made
    await made.members.close()


def submit(link: WorkerLink) -> WorkStream:
    stream = WorkStream("me/0/r", max_unread_tokens=100)
    link.submit(WorkRequest("me/0/r", 1, (1,), SamplingParams(0.0, 0, 5), None), stream)
    return stream


@pytest.mark.parametrize("address", ["", ELSEWHERE])
async def test_a_death_that_the_deployment_tells_is_counted_as_one(
    deployment: Deployment, address: str
) -> None:
    deployment.tell(Member("decode-0", NOWHERE))
    stream = submit(deployment.serve(NOWHERE))
    deployment.tell(Member("decode-0", address))
    failure = (await stream.next()).failure
    assert failure
    assert failure.is_death
    assert deployment.lost == [("decode-0", True)]


async def test_the_end_of_an_old_link_says_nothing_of_the_new_process(
    deployment: Deployment,
) -> None:
    deployment.tell(Member("decode-0", NOWHERE))
    deployment.serve(NOWHERE)
    deployment.tell(Member("decode-0"))
    # the new process says nothing, so that its own link is not lost meanwhile
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        deployment.tell(Member("decode-0", address))
        new = deployment.serve(address)
        await asyncio.gather(*deployment.members._closing)
    assert deployment.lost == [("decode-0", True)]
    assert deployment.members.links == [new]
    assert deployment.members.num_restarts("decode-0") == 1


async def test_a_first_start_and_another_name_are_no_restarts(deployment: Deployment) -> None:
    deployment.tell(Member("decode-0", NOWHERE))
    deployment.serve(NOWHERE)
    deployment.tell(Member("decode-0", NOWHERE), Member("decode-1", ELSEWHERE))
    assert deployment.members.num_restarts("decode-0") == 0
    assert deployment.members.num_restarts("decode-1") == 0


async def test_a_worker_that_leaves_has_not_died(deployment: Deployment) -> None:
    deployment.tell(Member("decode-0", NOWHERE))
    stream = submit(deployment.serve(NOWHERE))
    deployment.tell()
    failure = (await stream.next()).failure
    assert failure
    assert not failure.is_death


async def test_a_new_process_at_the_address_of_one_that_is_gone_gets_a_link(
    deployment: Deployment,
) -> None:
    deployment.tell(Member("decode-0", NOWHERE))
    old = deployment.serve(NOWHERE)
    deployment.tell(Member("decode-0"))
    await asyncio.gather(*deployment.members._closing)
    deployment.tell(Member("decode-0", NOWHERE))
    (new,) = deployment.members.links
    assert new is not old
    assert not new.is_closing


async def test_a_process_that_is_gone_before_it_said_its_name_leaves_no_link(
    deployment: Deployment,
) -> None:
    deployment.tell(Member("decode-0", NOWHERE))
    deployment.tell(Member("decode-0"))
    assert deployment.members.links == []
