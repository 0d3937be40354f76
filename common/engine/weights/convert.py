"""Conversion of a GGUF file to a folder of float32 safetensors, configuration and tokenizer.

float32 holds every dequantized value exactly, so nothing is lost; loading casts it down when asked.

torch and transformers are imported when a conversion runs: they take seconds, and finding a model
that is already converted must not.
"""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.engine.weights.gguf_facts import (
    GgufFacts,
    LongRope,
    architecture_of,
    open_gguf,
    read_gguf_facts,
)
from common.engine.weights.gguf_parts import find_parts
from common.engine.weights.progress import Progress
from common.machine import Memory, read_memory
from pdserve.errors import SetupError

if TYPE_CHECKING:
    from common.engine.weights.gguf_reader import QuickReader

_STEPS = 3  # weights read, tokenizer read, folder written
_ALONE = "model.gguf"
_FLOAT32_BYTES, _GIB = 4, 2**30
_PEAK = 1.4  # of a model's bytes in float32 that a conversion takes; 1.34 were measured
REMEDY = "Use the model's safetensors folder instead"


@dataclass(frozen=True, slots=True)
class OpenGguf:
    """GGUF file that is open, alone in a folder under another name."""

    folder: Path
    name: str  # in that folder
    reader: "QuickReader"
    facts: GgufFacts
    architecture: str  # as llama.cpp names it


def convert_gguf(gguf: Path, out: Path, progress: Progress) -> None:
    """Write the model of a GGUF file, given any of its parts, to the new folder `out` in one that exists.

    The folder gets config.json and generation_config.json (both with eos_token_id), float32 safetensors,
    tokenizer.json and the chat template.

    Raises SetupError for a file that is cut short or no GGUF, for a model that transformers cannot rebuild
    exactly, and where the whole model in float32 does not fit into memory.
    """
    with open_alone(gguf, out.parent) as opened:
        check_memory(opened, gguf.name, read_memory())
        progress.stage("convert to safetensors", _STEPS)
        _convert(opened, out, progress)


@contextmanager
def open_alone(gguf: Path, parent: Path) -> Iterator[OpenGguf]:
    """Open a GGUF file, given any of its parts, for the block; `parent` holds its folder meanwhile.

    Raises SetupError for a file that is cut short or no GGUF. What transformers raises in the block becomes
    one.
    """
    parts = find_parts(gguf)
    reader = open_gguf(parts)
    facts = read_gguf_facts(reader, gguf.name)
    # loaded late: it takes numpy and gguf
    from common.engine.weights.gguf_reader import shared

    try:
        # Alone in a folder: transformers would read a config or tokenizer that lies beside it.
        with (
            tempfile.TemporaryDirectory(dir=parent) as alone,
            _quiet_transformers(),
            shared(reader),
        ):
            (Path(alone) / _ALONE).symlink_to(parts[0].resolve())
            yield OpenGguf(Path(alone), _ALONE, reader, facts, architecture_of(reader))
    except SetupError:
        raise
    # transformers has no error class for files it does not expect: KeyError, ValueError, TypeError,
    # RuntimeError and an OSError without a number all come out of it.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise SetupError(f"cannot convert {gguf.name}: {reason}", REMEDY) from error


def save_tokenizer(opened: OpenGguf, model: Any, out: Path) -> None:
    """Save the tokenizer, and complete the model's configurations by what transformers drops."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        opened.folder, gguf_file=opened.name, local_files_only=True
    )
    if opened.facts.splits_digits:
        from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

        # transformers does not know these vocabularies' rule; without it "a  12" comes out as
        # tokens that the model never saw in training.
        digits_first = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(digits_first)
    tokenizer.save_pretrained(out)
    end_of_turn = opened.facts.end_of_turn
    eos = _eos_token_ids(model.config.eos_token_id, tokenizer.eos_token_id, end_of_turn)
    for config in (model.config, model.generation_config):
        config.eos_token_id = eos
    if opened.facts.frequency_divisors:
        model.config.rope_parameters = _divided(model.config, opened.facts.frequency_divisors)
    if opened.facts.long_rope:
        _write_long_rope(model.config, opened.facts.long_rope)


def _convert(opened: OpenGguf, out: Path, progress: Progress) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    model, report = AutoModelForCausalLM.from_pretrained(
        opened.folder,
        gguf_file=opened.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        local_files_only=True,
        output_loading_info=True,
    )
    # transformers fills missing weights (one part of a split model, say) with random numbers.
    if missing := sorted(report["missing_keys"]):
        raise SetupError(f"the GGUF file lacks {len(missing)} weights ({missing[0]} ...)", REMEDY)
    progress.advance(1)
    save_tokenizer(opened, model, out)
    progress.advance(1)
    model.save_pretrained(out)
    for weights in out.glob("*.safetensors"):
        # safetensors makes them readable to their owner alone, whatever the umask says.
        weights.chmod((out / "config.json").stat().st_mode)
    progress.advance(1)


def check_memory(opened: OpenGguf, name: str, memory: Memory) -> None:
    """Raise SetupError where the model in float32 does not fit beside what the process holds."""
    numbers = sum(int(tensor.n_elements) for tensor in opened.reader.tensors)
    needed = _PEAK * numbers * _FLOAT32_BYTES
    if needed > memory.usable_bytes:
        raise SetupError(
            f"cannot convert {name}: its {numbers / 1e9:.2f} billion weights take "
            f"{needed / _GIB:.1f} GiB meanwhile, and {memory.usable_bytes / _GIB:.1f} are available",
            "Free memory, or use a machine with more",
        )


def _divided(config: Any, divisors: tuple[float, ...]) -> dict[str, object]:
    """Return rotary parameters that divide each frequency at every length: LongRoPE, one set of factors."""
    factors = list(divisors)
    return {
        "rope_type": "longrope",
        "rope_theta": config.rope_parameters["rope_theta"],
        "short_factor": factors,
        "long_factor": factors,
        "attention_factor": 1.0,
        "original_max_position_embeddings": config.max_position_embeddings,
    }


def _write_long_rope(config: Any, rope: LongRope) -> None:
    """Write LongRoPE into a configuration; the factors are as many as pairs of channels that are turned."""
    head_dim = getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    config.original_max_position_embeddings = rope.original_tokens
    config.rope_parameters = {
        "rope_type": "longrope",
        "rope_theta": config.rope_parameters["rope_theta"],
        "partial_rotary_factor": 2 * len(rope.short) / head_dim,
        "short_factor": list(rope.short),
        "long_factor": list(rope.long),
        "original_max_position_embeddings": rope.original_tokens,
    }
    if rope.attention_factor is not None:
        config.rope_parameters["attention_factor"] = rope.attention_factor


def _eos_token_ids(
    configured: int | list[int] | None, of_tokenizer: int | None, end_of_turn: int | None
) -> int | list[int] | None:
    known = configured if configured is not None else of_tokenizer
    ids = known if isinstance(known, list) else [known]
    every = list(dict.fromkeys(i for i in (*ids, end_of_turn) if i is not None))
    return every if len(every) > 1 else next(iter(every), None)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    import transformers.modeling_gguf_pytorch_utils as gguf_utils
    from transformers.utils import logging

    verbosity, bars, gguf_bar = (
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
        gguf_utils.tqdm,
    )
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # This bar listens to none of the switches above.
    gguf_utils.tqdm = logging.EmptyTqdm
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        gguf_utils.tqdm = gguf_bar
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
