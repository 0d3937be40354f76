"""What a model folder must hold before anything slow looks at it."""

import json
from pathlib import Path

from pdserve.errors import SetupError

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
INDEX = "model.safetensors.index.json"


def check_folder(folder: Path) -> None:
    """Raises SetupError, naming what is missing, unless the folder has config.json, all its
    safetensors files and tokenizer.json. Pickled weights never count."""
    try:
        files = {path.name for path in folder.iterdir() if path.is_file()}
    except OSError as error:
        raise SetupError(f"cannot read the folder {folder}: {error.strerror}") from error
    if not any(name.endswith(".safetensors") for name in files):
        _refuse_other_weights(folder, sorted(files))
    missing = [name for name in ("config.json", "tokenizer.json") if name not in files]
    missing += sorted(read_shards(folder) - files) if INDEX in files else []
    if not any(name.endswith(".safetensors") for name in files):
        missing.append("*.safetensors")
    if missing:
        raise SetupError(
            f"{folder} is not a whole model: it lacks {', '.join(sorted(missing))}",
            "Give a folder with config.json, *.safetensors and tokenizer.json",
        )


def read_eos_token_ids(path: Path) -> frozenset[int]:
    """End-of-sequence tokens: generation_config.json's, else config.json's."""
    for name in ("generation_config.json", "config.json"):
        file = path / name
        eos = json.loads(file.read_text()).get("eos_token_id") if file.exists() else None
        if eos is not None:
            return frozenset(eos if isinstance(eos, list) else [eos])
    return frozenset()


def refuse_pickle(path: Path, holder: str) -> SetupError:
    """The error for pickled weights at `path`; `holder` is the name the user gave."""
    return SetupError(
        f"{holder}: refused, since {path.name} is a pickle, which can run any code when it is read",
        "Save the model as safetensors (save_pretrained does) and give that folder",
    )


def _refuse_other_weights(folder: Path, files: list[str]) -> None:
    if gguf := [name for name in files if name.endswith(".gguf")]:
        raise SetupError(
            f"{folder} has GGUF weights only", f"Give the file itself: {folder / gguf[0]}"
        )
    if pickles := [name for name in files if name.endswith(PICKLE_SUFFIXES)]:
        raise refuse_pickle(folder / pickles[0], str(folder))


def read_shards(folder: Path) -> set[str]:
    """The names of the files that the folder's index lists. Raises SetupError when it lists none."""
    try:
        shards = set(json.loads((folder / INDEX).read_bytes())["weight_map"].values())
    except OSError as error:
        raise SetupError(f"cannot read {folder / INDEX}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SetupError(f"{folder / INDEX} is not a list of shards", "Copy it again") from error
    if not shards or not all(isinstance(name, str) for name in shards):
        raise SetupError(f"{folder / INDEX} is not a list of shards", "Copy it again")
    return shards
