"""Plan of a quantized folder: which stored tensors make which plain weight, and which are not needed."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.engine.weights.prequantized.formats import choose_format
from common.engine.weights.prequantized.opened import OpenFiles
from common.engine.weights.prequantized.packed import Format, PackedWeight
from common.engine.weights.prequantized.parts import REMEDY
from common.engine.weights.prequantized.settings import Settings, read_settings
from common.engine.weights.stored import StoredTensor, loaded_tensors
from pdserve.errors import SetupError

DEQUANTIZED = "dequantized"  # in place of a dtype: a weight that is stored as parts

# Scales of activations and of KV, which are both held in the engine's dtype here.
_ACTIVATIONS = (
    *("input_scale", "input_zero_point", "input_scale_ub", "activation_scale"),
    "input_global_scale",
)
_OUTPUTS = ("output_scale", "output_zero_point")
_KV = (".k_scale", ".v_scale", ".kv_scale", ".q_scale", ".k_zero_point", ".v_zero_point")

Stored = Mapping[str, StoredTensor]


@dataclass(frozen=True, slots=True)
class Plan:
    """Weights of a quantized folder, by the names that they have when they are not quantized."""

    told: str  # "AWQ 4-bit", and what of the folder is not used
    method: str  # "awq"
    packed: Mapping[str, PackedWeight]
    plain: Stored  # tensors that are stored as they are
    stored: Stored  # all of the files that are loaded
    keeps: bool = False  # integers are held as they are, for panels (keeping.py)

    def entries(self) -> dict[str, StoredTensor]:
        """Return the tensors as a model takes them, with DEQUANTIZED as the dtype of packed ones."""
        made = {
            name: StoredTensor(self.stored[weight.main].file, DEQUANTIZED, weight.shape)
            for name, weight in self.packed.items()
        }
        return {**self.plain, **made}

    def zero_biases(self, names: Collection[str], renamed: Callable[[str], str]) -> set[str]:
        """Return those of `names` that are biases of packed weights, and zero: AutoGPTQ adds them to all.

        `renamed` gives a stored tensor's name among `names`.
        """
        biases = [f"{name.removesuffix('.weight')}.bias" for name in self.packed]
        stored = {renamed(name): name for name in biases if name in self.plain}
        read = OpenFiles(self.stored).read
        return {name for name in names if name in stored and not read(stored[name]).any()}


def read_plan(folder: Path) -> Plan | None:
    """Read the plan of a folder; None: its weights are not quantized.

    Raises SetupError, naming a key or a tensor, for what is not known, and for a weight that lacks a part.
    """
    return plan_for(folder, lambda: loaded_tensors(folder))


def plan_for(folder: Path, tensors: Callable[[], Stored]) -> Plan | None:
    """Return the plan of a folder whose tensors `tensors` lists; they are asked for only if need be."""
    settings = read_settings(folder)
    if settings is None:
        return None
    form = choose_format(settings)
    return _plan(settings, form, tensors())


def tell_plan(folder: Path, keeps: bool) -> str:
    """Return words about a folder's quantized weights, dequantized or not; "": they are none."""
    plan = read_plan(folder)
    if plan is None:
        return ""
    num_bytes = sum(file.stat().st_size for file in {t.file for t in plan.stored.values()})
    done = "integers kept" if keeps else "dequantized"
    return f"; {done} from {plan.told}, {num_bytes / 1e9:.2f} GB in files"


def _plan(settings: Settings, form: Format, stored: Stored) -> Plan:
    packed: dict[str, PackedWeight] = {}
    for weight in form.find(stored, OpenFiles(stored).read):
        if weight.name in packed:
            raise _twice(weight.name, stored[weight.main])
        packed[weight.name] = weight
    if not packed:
        raise settings.refusal("no tensor is stored so")
    taken = {part for weight in packed.values() for part in weight.parts.values()}
    rest = {name: tensor for name, tensor in stored.items() if name not in taken}
    unused = {name for name in rest if name.endswith((*_ACTIVATIONS, *_OUTPUTS, *_KV))}
    plain = {name: tensor for name, tensor in rest.items() if name not in unused}
    for name, tensor in plain.items():
        if name in packed:
            raise _twice(name, tensor)
        if name.endswith(form.endings):
            raise SetupError(f"{tensor.file}: {name} belongs to no quantized weight", REMEDY)
    return Plan(_told(form.told, unused), settings.method, packed, plain, stored)


def _twice(name: str, tensor: StoredTensor) -> SetupError:
    return SetupError(f"{tensor.file}: {name} is stored twice, and quantized once at least", REMEDY)


def _told(form: str, unused: set[str]) -> str:
    kinds = {
        "activations": any(name.endswith((*_ACTIVATIONS, *_OUTPUTS)) for name in unused),
        "KV": any(name.endswith(_KV) for name in unused),
    }
    left = " and ".join(kind for kind, is_left in kinds.items() if is_left)
    return f"{form}, without its scales of {left}" if left else form
