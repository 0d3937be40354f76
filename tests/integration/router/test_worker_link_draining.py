"""Draining of a worker, which its router asks for, over a connection that breaks."""

from tests.integration.support.linked_worker import direct, linked, until


async def test_a_worker_that_drains_does_so_again_after_a_cut() -> None:
    async with linked() as rig, direct(rig, "another") as other:
        rig.link.set_draining(True)
        await until(lambda: other.load.is_draining)
        rig.relay.freeze()
        await rig.cut()
        await until(lambda: not other.load.is_draining)  # forgotten with the connection
        rig.relay.heal()
        await until(lambda: other.load.is_draining)
