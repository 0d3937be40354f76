"""Check that a model is made of its family's own parts alone: then its weights tell what it computes."""

from collections.abc import Iterator

from torch import nn

from common.engine.fused.held import HeldEmbedding, HeldLinear, HeldWeight
from common.engine.weights.llama import LlamaForCausalLM

# by exact class: a subclass (bitsandbytes', torchao's, an adapter's) may compute something else
_TORCH = {nn.Linear, nn.Embedding, nn.ModuleList, nn.Dropout, nn.SiLU}
_OURS = {HeldLinear, HeldEmbedding}  # in the place of torch's
_FAMILIES = ("transformers.models.", LlamaForCausalLM.__module__)
_ACTIVATIONS = "transformers.activations"


def is_plain(model: nn.Module) -> bool:
    """Return True if every module is torch's own or of the file that defines the model, and unhooked.

    Every parameter must be an ordinary tensor, too. That file also defines a family's own modules (norms,
    scaled embeddings).
    """
    family = type(model).__module__
    if not family.startswith(_FAMILIES):
        return False
    return all(_is_plain(module, family) for module in model.modules())


def _is_plain(module: nn.Module, family: str) -> bool:
    if isinstance(module, HeldWeight):
        return True
    kind = type(module)
    is_known = kind in _TORCH | _OURS or kind.__module__ in (family, _ACTIVATIONS)
    # a quantized tensor hides in an ordinary nn.Linear as a subclass of Parameter
    has_tensors = all(type(parameter) is nn.Parameter for parameter in module.parameters(False))
    return is_known and has_tensors and not any(_changes(module))


def _changes(module: nn.Module) -> Iterator[bool]:
    """Yield True for each reason that makes a module of a known class compute something else."""
    yield "forward" in vars(module)
    yield bool(module._forward_hooks or module._forward_pre_hooks)
