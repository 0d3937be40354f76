"""Loading of a plain Llama without `transformers`, whose import takes two seconds of a core.

A folder is loaded like that only when every key of its configuration is known, and its files hold exactly the
model's tensors. Anything else is left to `transformers`, and to the errors of that path.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from common.config import EngineConfig, StoredDtype
from common.engine.memory.kv_cache import DTYPES
from common.engine.model_spec import ModelSpec
from common.engine.weights.config_file import ADAPTER, read_config
from common.engine.weights.gguf_index import is_kept
from common.engine.weights.llama import LlamaForCausalLM, Take, shapes_of
from common.engine.weights.plain_config import PlainConfig
from common.engine.weights.prequantized.plan import read_plan
from common.engine.weights.spec import read_spec
from common.engine.weights.stored import StoredTensor, read_tensors, unchanged, weight_files
from pdserve.errors import SetupError

_FLOATS = {"F32", "F16", "BF16"}

AsServed = Callable[[ModelSpec], ModelSpec]
"""Function that returns a model's numbers as it is served, before its weights are read; raises SetupError."""


@dataclass(frozen=True, slots=True)
class PlainCheckpoint:
    """Folder that holds a plain Llama and nothing else."""

    folder: Path
    config: PlainConfig
    tensors: Mapping[str, StoredTensor]

    @property
    def architecture(self) -> str:
        """Name of the class that computes it."""
        return str(LlamaForCausalLM.__name__)


def find_plain(folder: Path, config: EngineConfig, device: torch.device) -> PlainCheckpoint | None:
    """Return what the folder holds if it can be loaded here for this engine; reads headers alone.

    The fused pass must run it: it has no other.
    """
    if device.type != "cpu" or config.fusion != "auto" or is_kept(folder):
        return None
    try:
        model = PlainConfig.read(read_config(folder))
        if model is None or (folder / ADAPTER).exists():
            return None
        if read_plan(folder) is not None:  # quantized
            return None
        tensors = read_tensors(weight_files(folder))
    except SetupError:  # the other path tells it, and finds more
        return None
    is_whole = {name: tensor.shape for name, tensor in tensors.items()} == shapes_of(model)
    is_plain = all(tensor.dtype in _FLOATS for tensor in tensors.values())
    return PlainCheckpoint(folder, model, tensors) if is_whole and is_plain else None


def load_plain(
    found: PlainCheckpoint, dtype: StoredDtype, as_served: AsServed
) -> tuple[torch.nn.Module, ModelSpec]:
    """Load the model in eval mode, and its numbers. Raises SetupError."""
    with unchanged(found.folder):
        spec = as_served(read_spec(found.folder, found.config, dtype))
        try:
            with _reading(found.tensors, DTYPES[dtype]) as take:
                model = LlamaForCausalLM(found.config, take)
        except (OSError, SafetensorError) as error:
            raise SetupError(f"cannot read the weights in {found.folder}: {error}") from error
    return model.eval(), spec


@contextmanager
def _reading(tensors: Mapping[str, StoredTensor], dtype: torch.dtype) -> Iterator[Take]:
    """Yield a reader of one tensor after another; files are not mapped, see streamed.py."""
    with ExitStack() as open_files:
        files = {
            path: open_files.enter_context(
                safe_open(path, framework="pt", device="cpu", backend="pread")
            )
            for path in {tensor.file for tensor in tensors.values()}
        }
        yield lambda name: files[tensors[name].file].get_tensor(name).to(dtype)
