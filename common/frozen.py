"""Base of all settings: frozen, without unknown keys."""

from typing import get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Frozen(BaseModel):
    """Settings that never change, and refuse keys that they do not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _read_switch(cls, value: object, info: ValidationInfo) -> object:
        """Read true and false as "on" and "off" where these are choices: YAML takes bare words so."""
        word = {True: "on", False: "off"}.get(value) if isinstance(value, bool) else None
        choices = get_args(cls.model_fields[info.field_name or ""].annotation)
        return word if word in choices else value
