"""Loader of the configuration: flag > PDSERVE_* > file > default.

No other module reads the environment.
"""

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from common.config import ServeConfig
from pdserve.errors import SetupError

Values = dict[str, object]

_PREFIX = "PDSERVE_"
_NEAR = 0.8  # less similar names may be of others, such as Kubernetes' PDSERVE_SERVICE_HOST


class _Layers(BaseSettings, ServeConfig):
    """Settings that are also read from PDSERVE_*; nested keys are joined by `__`."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (env_settings, init_settings)


def load_config(file: Path | None, flags: Values) -> ServeConfig:
    """Return the frozen settings. Flags are dotted keys ("engine.dtype"); None means not given.

    Raises SetupError with the key and the remedy.
    """
    values = _read_file(file) if file else {}
    _check_keys(values, ServeConfig, "")
    _check_environment()
    given = _given(flags)
    try:
        layered = _Layers(**values).model_dump()  # type: ignore[arg-type]  # validated by pydantic
        for key, value in given.items():
            _set(layered, key, value)
        return ServeConfig.model_validate(layered)
    except SettingsError as error:
        raise SetupError(f"{_PREFIX}*: {error}", "a whole section is one JSON object") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "configuration"
        message = first["msg"].removeprefix("Value error, ")
        raise SetupError(f"{key}: {message} (got {first['input']!r})") from error


def find_origins(file: Path | None, flags: Values) -> dict[str, str]:
    """Return the origin of each setting's value: "flag", "env", "file" or "default".

    Raises SetupError.
    """
    layers: dict[str, Values] = {
        "flag": _given(flags),
        "env": dict(_flatten(EnvSettingsSource(_Layers)())),
        "file": dict(_flatten(_read_file(file) if file else {})),
    }
    return {
        key: next((name for name, values in layers.items() if key in values), "default")
        for key in setting_keys()
    }


def setting_keys(model: type[BaseModel] = ServeConfig, prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every setting."""
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        if section is None:
            yield f"{prefix}{name}"
        else:
            yield from setting_keys(section, f"{prefix}{name}.")


def get_setting(config: BaseModel, dotted: str) -> object:
    """Return the value of a setting."""
    found: object = config
    for name in dotted.split("."):
        found = getattr(found, name)
    return found


def _given(flags: Values) -> Values:
    return {key: value for key, value in flags.items() if value is not None}


def _flatten(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield nested keys as dotted keys, with their values."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read_file(file: Path) -> Values:
    try:
        data = yaml.safe_load(file.read_text("utf-8"))
    except OSError as error:
        raise SetupError(f"--config {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SetupError(f"--config {file} is not UTF-8 text: {error.reason}") from error
    except yaml.YAMLError as error:
        raise SetupError(f"--config {file} is not YAML: {str(error).splitlines()[0]}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SetupError(f"--config {file} must hold keys and values")
    return data


def _check_keys(values: Values, model: type[BaseModel], prefix: str) -> None:
    """Refuse unknown keys with the nearest known one."""
    for key, value in values.items():
        known = model.model_fields.get(str(key))
        if known is None:
            near = difflib.get_close_matches(str(key), model.model_fields, n=1)
            remedy = (
                f"did you mean '{prefix}{near[0]}'?"
                if near
                else "see docs/operate/configuration.md"
            )
            raise SetupError(f"unknown configuration key '{prefix}{key}'", remedy)
        section = _section(known.annotation)
        if isinstance(value, dict) and section is not None:
            _check_keys(value, section, f"{prefix}{key}.")


def _check_environment() -> None:
    """Refuse a PDSERVE_* variable that names no setting, if it is clearly meant to."""
    known = [key.replace(".", "__").upper() for key in setting_keys()]
    sections = {key.partition("__")[0] for key in known if "__" in key}
    for name in os.environ:
        key = name.upper().removeprefix(_PREFIX)
        if not name.upper().startswith(_PREFIX) or key in known or key in sections:
            continue
        near = difflib.get_close_matches(key, known, n=1, cutoff=_NEAR)
        if near or key.partition("__")[0] in sections:
            remedy = (
                f"did you mean {_PREFIX}{near[0]}?" if near else "see docs/operate/configuration.md"
            )
            raise SetupError(f"unknown environment variable {name}", remedy)


def _section(annotation: object) -> type[BaseModel] | None:
    """Return the settings model that a key holds, or None if it holds a value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def _set(values: Values, dotted: str, value: object) -> None:
    *parents, last = dotted.split(".")
    for name in parents:
        inner = values[name]
        if not isinstance(inner, dict):
            raise TypeError(f"{dotted} does not name a nested key")
        values = inner
    values[last] = value
