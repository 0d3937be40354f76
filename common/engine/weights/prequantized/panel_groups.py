"""Groups of kept integers in panels: those of a checkpoint, or parts of them."""

from dataclasses import dataclass

from common.engine.weights.prequantized.packed import IntegerForm, PackedWeight

# Panels have groups of a power of two; wider ones would save little.
_LEAST_GROUP, _LARGEST_GROUP = 32, 128
_SCALE_BYTES = 8  # a scale and an offset in float32


@dataclass(frozen=True, slots=True)
class KeptForm:
    """Form of integers, and the numbers of a row that share a scale in panels."""

    integers: IntegerForm
    group: int

    def most_bytes(self, num_numbers: int) -> int:
        """Return the most bytes of a weight of so many numbers."""
        return num_numbers * self.integers.bits // 8 + num_numbers // self.group * _SCALE_BYTES


def kept_form(weight: PackedWeight) -> KeptForm | None:
    """Return the form in which panels hold a weight as it is; None: they cannot."""
    if weight.form is None:
        return None
    width, rest = divmod(weight.shape[1], weight.form.num_groups)
    group = min(width & -width, _LARGEST_GROUP)  # the largest power of two that divides it
    return None if rest or group < _LEAST_GROUP else KeptForm(weight.form, group)
