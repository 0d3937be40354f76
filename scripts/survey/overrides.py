"""Fields of model types that the general rules do not make small, or not consistent; dots lead into parts."""

from collections.abc import Mapping

OVERRIDES: Mapping[str, Mapping[str, object]] = {}
