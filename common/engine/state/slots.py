"""Owner of the places for states: which slot is whose. Touches no tensor."""

from collections.abc import Iterable


class OutOfSlotsError(RuntimeError):
    """Raised when no slot is free; callers look at `num_free` first."""


class StateSlots:
    """Free list of `num_slots` slots, each for the state of one sequence.

    A sequence takes its slot together with its blocks and gives both back together (prefix_cache.py).
    """

    def __init__(self, num_slots: int) -> None:
        if num_slots < 1:
            raise ValueError(f"need at least one slot, got {num_slots}")
        self.num_slots = num_slots
        # the slot given back last is taken first: its memory is in the CPU's caches
        self._free = list(range(num_slots - 1, -1, -1))
        self._held: set[int] = set()

    @property
    def num_free(self) -> int:
        """Number of slots that can be taken now."""
        return len(self._free)

    def take(self) -> int:
        """Take a slot, whose content means nothing yet. Raises OutOfSlotsError."""
        if not self._free:
            raise OutOfSlotsError(f"all {self.num_slots} slots are held")
        slot = self._free.pop()
        self._held.add(slot)
        return slot

    def give_back(self, slot: int) -> None:
        """Give a held slot back."""
        if slot not in self._held:
            raise ValueError(f"slot {slot} is given back but nobody holds it")
        self._held.remove(slot)
        self._free.append(slot)

    def check_integrity(self, held: Iterable[int]) -> None:
        """Verify that exactly these slots are held, each by one sequence.

        Raises AssertionError: a violation is a bug of ours, never of an input.
        """
        expected = sorted(held)
        if expected != sorted(self._held):
            raise AssertionError(f"slots held: {sorted(self._held)}, by sequences: {expected}")
        if sorted([*self._free, *self._held]) != list(range(self.num_slots)):
            raise AssertionError("a slot is lost, or free and held at once")
