"""Grammar masks, filled in the background, and the kernel that puts masks on logits."""

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from concurrent.futures import Future
from dataclasses import dataclass

import torch

from common.engine.kernel_checks.verdicts import trusted_sampling
from common.engine.sequence import Sequence
from common.grammar.matcher import MaskFiller, Masks

# Finite, so that a row's sum still tells whether the model returned NaN or infinity; far enough below any
# logit that its softmax weight is 0 at every temperature. float16 ends at 65504.
FORBIDDEN = {torch.float32: -1e30, torch.bfloat16: -1e30, torch.float16: -6e4}


@dataclass(frozen=True, slots=True)
class PendingMasks:
    """Masks of rows `rows` of a step's logits, perhaps still being filled."""

    rows: list[int]
    masks: "Future[Masks]"


def start_masks(filler: MaskFiller, sequences: SequenceOf[Sequence]) -> PendingMasks | None:
    """Begin to fill the masks of sequences with a grammar; row i of the logits is `sequences[i]`'s."""
    rows = [row for row, seq in enumerate(sequences) if seq.matcher is not None]
    if not rows:
        return None
    return PendingMasks(rows, filler.start([m for seq in sequences if (m := seq.matcher)]))


def mask_logits(logits: torch.Tensor, rows: list[int], masks: Masks) -> None:
    """Mask row rows[i] of `logits` [n, vocab] by row i of `masks` [len(rows), words], in place."""
    with torch.inference_mode():  # tensors made in it may be written only in it
        index = torch.tensor(rows, device=logits.device)
        words = torch.from_numpy(masks).to(logits.device)
        bits = words[:, :, None] >> torch.arange(32, dtype=torch.int32, device=logits.device)
        is_allowed = (bits & 1).bool().flatten(1)[:, : logits.shape[1]]
        chosen = logits[index]
        logits[index] = torch.where(is_allowed, chosen, chosen * 0 + FORBIDDEN[logits.dtype])


Kernel = Callable[[torch.Tensor, list[int], Masks], None]


def mask_kernel(device: torch.device) -> Kernel:
    """Return what sets forbidden tokens to FORBIDDEN on this device."""
    if device.type != "cpu" or trusted_sampling() is not None:
        return mask_logits
    # numba takes 0.3 s to import; a CUDA worker never needs it
    from common.engine.cpu import masking

    return masking.mask_logits
