"""The public library of pdserve: generated stubs (`pdserve.v1`), typed errors and two clients.

This file runs whenever a stub is imported, so it stays light.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pdserve.client import AsyncClient as AsyncClient
    from pdserve.completion import Completion as Completion
    from pdserve.sync_client import Client as Client
    from pdserve.v1.inference_pb2 import SamplingParams as SamplingParams

__version__ = "0.1.0"

# grpc takes a quarter of a second to import; whoever needs only a stub does not pay for the clients
_HOMES = {
    "AsyncClient": "pdserve.client",
    "Client": "pdserve.sync_client",
    "Completion": "pdserve.completion",
    "SamplingParams": "pdserve.sampling",  # builds the message
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        found: object = getattr(importlib.import_module(_HOMES[name]), name)
        return found
    raise AttributeError(f"module 'pdserve' has no attribute '{name}'")
