"""The fusion pass as a test asks for it."""

from torch import nn

from common.engine.fused.families import activation_of, fuse
from common.engine.fused.weights import AsStored, DecoderWeights


def fuse_as_stored(model: nn.Module) -> DecoderWeights | None:
    """Return the model's weights merged, or None if the general path runs it."""
    activation = activation_of(model)
    return None if activation is None else fuse(model, activation, AsStored())
