"""Quantities of Kubernetes."""

_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def bytes_of(quantity: str) -> int:
    """Return an amount of memory, such as 512Mi, in bytes."""
    return int(quantity[:-2]) * _UNITS[quantity[-2:]]
