"""Building the configuration: flag > PDSERVE_* > file > default. The only reader of the environment."""

import difflib
from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from common.config import ServeConfig
from pdserve.errors import SetupError

Values = dict[str, object]


class _Layers(BaseSettings, ServeConfig):
    """ServeConfig that also reads PDSERVE_*; nested keys are joined by `__`."""

    model_config = SettingsConfigDict(
        env_prefix="PDSERVE_", env_nested_delimiter="__", extra="forbid", frozen=True
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
    """The frozen settings. Flags are dotted keys ("engine.dtype"); None means not given.

    Raises SetupError with the key and the remedy.
    """
    values = _read_file(file) if file else {}
    _check_keys(values, ServeConfig, "")
    given = {key: value for key, value in flags.items() if value is not None}
    try:
        layered = _Layers(**values).model_dump()  # type: ignore[arg-type]  # validated by pydantic
        for key, value in given.items():
            _set(layered, key, value)
        return ServeConfig.model_validate(layered)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "configuration"
        raise SetupError(f"{key}: {first['msg']} (got {first['input']!r})") from error


def _read_file(file: Path) -> Values:
    try:
        data = yaml.safe_load(file.read_text())
    except OSError as error:
        raise SetupError(f"--config {file} cannot be read: {error.strerror}") from error
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
            remedy = f"did you mean '{prefix}{near[0]}'?" if near else "see docs/configuration.md"
            raise SetupError(f"unknown configuration key '{prefix}{key}'", remedy)
        inner = known.annotation
        if isinstance(value, dict) and isinstance(inner, type) and issubclass(inner, BaseModel):
            _check_keys(value, inner, f"{prefix}{key}.")


def _set(values: Values, dotted: str, value: object) -> None:
    *parents, last = dotted.split(".")
    for name in parents:
        inner = values[name]
        if not isinstance(inner, dict):
            raise TypeError(f"{dotted} does not name a nested key")
        values = inner
    values[last] = value
