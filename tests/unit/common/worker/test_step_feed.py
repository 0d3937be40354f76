from common.messages import StepOutput, WorkerLoad
from common.worker.step_feed import StepFeed


def test_every_subscriber_gets_every_output_until_it_leaves() -> None:
    feed = StepFeed()
    first: list[StepOutput] = []
    second: list[StepOutput] = []
    leave = feed.subscribe(first.append)
    feed.subscribe(second.append)
    outputs = [StepOutput(load=WorkerLoad(steps=steps)) for steps in range(2)]
    feed.publish(outputs[0])
    leave()
    feed.publish(outputs[1])
    assert (first, second) == (outputs[:1], outputs)


def test_a_subscriber_may_leave_while_it_is_called() -> None:
    feed = StepFeed()
    seen: list[StepOutput] = []
    leave = feed.subscribe(lambda _: leave())
    feed.subscribe(seen.append)
    feed.publish(StepOutput())
    assert seen == [StepOutput()]


def test_the_latest_load_is_kept_by_outputs_that_carry_none() -> None:
    feed = StepFeed()
    feed.publish(StepOutput(load=WorkerLoad(steps=3)))
    feed.publish(StepOutput())
    assert feed.load.steps == 3
