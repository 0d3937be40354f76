"""Random plans of simulations: hypothesis draws them, and shrinks those that fail."""

from hypothesis import strategies as st

from tests.simulation.plan import Fault, Plan, Request

_TIMES = st.integers(0, 300).map(lambda hundredths: hundredths / 100)
REQUESTS = st.builds(
    Request,
    at_s=_TIMES,
    num_prompt_tokens=st.integers(1, 60),
    max_tokens=st.integers(1, 40),
    num_choices=st.sampled_from((1, 1, 1, 2, 3)),
    leaves_after_s=st.none() | st.none() | st.none() | _TIMES,
    leaves_by=st.sampled_from(("cancel", "departure", "deadline")),
)
FAULTS = st.builds(
    Fault,
    at_s=_TIMES,
    kind=st.sampled_from(("kill", "kill", "cut", "cut", "silence", "hang", "evict")),
    worker=st.integers(0, 3),
    for_s=st.sampled_from((0.05, 0.5, 3.0, 12.0)),
)
PLANS = st.builds(
    Plan,
    seed=st.integers(0, 2**16),
    num_prefill=st.integers(0, 2),
    num_decode=st.integers(1, 2),
    requests=st.lists(REQUESTS, min_size=1, max_size=8).map(tuple),
    faults=st.lists(FAULTS, max_size=5).map(tuple),
    policy=st.sampled_from(("least_loaded", "cost", "round_robin")),
    is_supervised=st.booleans(),
)
