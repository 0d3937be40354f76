"""Checks of a model folder before anything slow reads it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from common.telemetry.logs import get_logger
from pdserve.errors import SetupError

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# forms of older tokenizers, which transformers turns into tokenizer.json
_SLOW_TOKENIZERS = {"tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt"}
# of config.json, with ids of the text's tokens; others have ids of their own, as those of sounds
_TEXT_SECTIONS = ((), ("text_config",), ("thinker_config",), ("thinker_config", "text_config"))
INDEX = "model.safetensors.index.json"

_log = get_logger()


def check_folder(folder: Path) -> None:
    """Raise SetupError, naming the missing files, unless the folder holds a whole model.

    A whole model is config.json, all its safetensors files and tokenizer.json. Pickled weights never count.
    """
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
    if missing == ["tokenizer.json"] and (slow := sorted(files & _SLOW_TOKENIZERS)):
        script = f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        raise SetupError(
            f"{folder} has its tokenizer as {', '.join(slow)}, and lacks tokenizer.json",
            f"Write it once with transformers: {script}",
        )
    if missing:
        raise SetupError(
            f"{folder} is not a whole model: it lacks {', '.join(sorted(missing))}",
            "Give a folder with config.json, *.safetensors and tokenizer.json",
        )


def read_eos_token_ids(path: Path, vocab_size: int) -> frozenset[int]:
    """Return the tokens that end an answer: all that any of the model's files names.

    generation_config.json and config.json with its sections for text give ids, tokenizer_config.json a text.
    Often they differ: a chat's end of turn here, a document's end there. An id of `vocab_size` or more, or a
    text that is no token, is left out with a warning: the model cannot generate it.
    Raises SetupError for a file that cannot be read, or an id that is no number.
    """
    generation = read_json_object(path / "generation_config.json")
    named = {
        *_eos_ids(generation, path / "generation_config.json"),
        *_config_eos(path / "config.json"),
        *_tokenizer_eos(path),
    }
    known = frozenset(token_id for token_id in named if 0 <= token_id < vocab_size)
    if unknown := sorted(named - known):
        _log.warning("eos_outside_vocabulary", folder=str(path), ids=unknown, vocab_size=vocab_size)
    return known


def read_json_object(file: Path) -> dict[str, object]:
    """Read a JSON file's keys and values, none where there is no file. Raises SetupError with its name."""
    try:
        data = json.loads(file.read_text("utf-8")) if file.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise SetupError(f"{file} cannot be read: {error}", "Copy it again") from error
    if not isinstance(data, dict):
        raise SetupError(f"{file} must hold keys and values", "Copy it again")
    return data


def refuse_pickle(path: Path, holder: str) -> SetupError:
    """Return the error for pickled weights at `path`; `holder` is the name the user gave."""
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
    """Read the names of the files that the folder's index lists. Raises SetupError when it lists none."""
    try:
        shards = set(json.loads((folder / INDEX).read_bytes())["weight_map"].values())
    except OSError as error:
        raise SetupError(f"cannot read {folder / INDEX}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SetupError(f"{folder / INDEX} is not a list of shards", "Copy it again") from error
    if not shards or not all(isinstance(name, str) for name in shards):
        raise SetupError(f"{folder / INDEX} is not a list of shards", "Copy it again")
    return shards


def _eos_ids(config: Mapping[str, object], file: Path, section: str = "") -> list[int]:
    value = config.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    found = [token_id for token_id in ids if type(token_id) is int]  # true and false are none
    if len(found) < len(ids):
        raise SetupError(
            f"{file}: {section}eos_token_id is {value!r}", "It must be a token id or a list of them"
        )
    return found


def _config_eos(file: Path) -> Iterator[int]:
    """Yield the ids that config.json gives, in any of its sections for text."""
    config = read_json_object(file)
    for keys in _TEXT_SECTIONS:
        section: object = config
        for key in keys:
            section = (section.get(key) if isinstance(section, dict) else None) or {}
        name = ".".join(keys)
        if not isinstance(section, dict):
            raise SetupError(f"{file}: {name} must hold keys and values")
        yield from _eos_ids(section, file, f"{name}." if name else "")


def _tokenizer_eos(path: Path) -> list[int]:
    """Return the id of the tokenizer's `eos_token`: an added token, or else one of its vocabulary."""
    file = path / "tokenizer_config.json"
    token = read_json_object(file).get("eos_token")
    text = token.get("content") if isinstance(token, dict) else token
    if text is None:
        return []
    if not isinstance(text, str):
        raise SetupError(f"{file}: eos_token is {token!r}", "It must be a text")
    tokenizer = read_json_object(path / "tokenizer.json")
    token_id = _find_token(tokenizer, text)
    if tokenizer and token_id is None:
        _log.warning("eos_not_in_tokenizer", folder=str(path), eos_token=text)
    return [] if token_id is None else [token_id]


def _find_token(tokenizer: Mapping[str, object], text: str) -> int | None:
    for added in _list(tokenizer.get("added_tokens")):
        if (
            isinstance(added, dict)
            and added.get("content") == text
            and type(added.get("id")) is int
        ):
            return int(added["id"])
    model = tokenizer.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, dict):
        found = vocab.get(text)
        return found if type(found) is int else None
    texts = (entry[0] for entry in _list(vocab) if isinstance(entry, list))  # Unigram: with scores
    return next((number for number, other in enumerate(texts) if other == text), None)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
