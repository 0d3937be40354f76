"""Refusal of quantized weights that nothing speaks of, found by the dtypes of the tensors.

`transformers` drops scales that it does not know: the model then writes garbage. What a folder's settings
speak of is turned into plain weights before (prequantized/).
"""

from collections.abc import Mapping

from common.engine.weights.prequantized.parts import REMEDY
from common.engine.weights.prequantized.plan import DEQUANTIZED
from common.engine.weights.stored import StoredTensor
from pdserve.errors import SetupError

_FLOATS = {"F64", "F32", "F16", "BF16", DEQUANTIZED}
_NARROW = ("F4", "F6_", "F8_")  # and F64 is not


def refuse_quantized_tensors(tensors: Mapping[str, StoredTensor]) -> None:
    """Raise SetupError, naming the tensor, when one is stored as only quantized weights are."""
    for name, tensor in tensors.items():
        is_narrow = tensor.dtype.startswith(_NARROW)
        if is_narrow or (name.endswith(".weight") and tensor.dtype not in _FLOATS):
            reason = f"{name} is stored as {tensor.dtype}, so the weights are quantized"
            raise SetupError(f"{tensor.file}: {reason}", REMEDY)
