"""The four prompts of `pdserve demo`, with different lengths of prompt and answer."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DemoPrompt:
    """One request of the demo."""

    title: str
    text: str
    max_tokens: int


_DOCUMENT = """
A harbour town had one ferry. Each morning the ferryman waited until every seat was taken before he cast
off, and at the far shore he waited again until the last passenger had finished her errands, because he
believed that a boat should only ever carry people who travel together. On market days this was a misery.
A fisherman who needed five minutes on the other side sat for an hour behind a family that was visiting
relatives, and the queue on the quay grew until it reached the church.

His daughter took over the boat when he retired, and she changed one rule. The ferry now went back and
forth without pause. At every landing whoever had arrived stepped off, and whoever was waiting stepped
on, up to the number of seats. Nobody waited for anybody else's errands. She did not buy a bigger boat
and she did not row any faster, and yet by the end of the summer she carried four times as many people.
The old man watched from the pier and said that it looked untidy, since no two crossings ever had the
same passengers. She answered that the empty seats had been the untidy part.

One trouble was left. Now and then a wagon came, loaded with barrels, and it took so long to roll the
barrels aboard that everybody who was already sitting in the boat fell behind. For a while she loaded
a few barrels at each landing and let the passengers cross in between, which helped. But the crossing
was still slower on the days when wagons came. So the town built a second jetty, further along, with a
crane and a flat barge of its own. Wagons went to the barge, where the barrels were stacked in order and
sent over piece by piece while the rest was still being lifted. The ferry never again waited for a wagon.

Visitors asked whether it would not have been cheaper to keep one boat for everything. The daughter told
them to look at two numbers. The first was how long a newcomer stood on the quay before the crossing
began. The second was how evenly the boat kept its time once you were in it. With one boat you could
improve either number only by spoiling the other. With two, each could be looked after by itself, and
if one of the two had too little to do, it could always lend its crew to the other for the afternoon.

The town kept a ledger of every seat and every barrel, and at sundown the clerk checked that each had
been given back. If one was missing they did not go home until they knew who had it. That habit, the
daughter said in her old age, had saved them more trouble than the crane.
""".strip()

PROMPTS = (
    DemoPrompt("short chat", "What is the capital of France?", 48),
    DemoPrompt("summarise", f"Summarise this story in three sentences.\n\n{_DOCUMENT}", 110),
    DemoPrompt(
        "list", "What are five good habits for staying healthy? Please give a numbered list.", 110
    ),
    DemoPrompt(
        "long text", "Explain to a curious child why the sky is blue and sunsets are red.", 200
    ),
)
