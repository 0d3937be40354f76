"""The public library of pdserve: generated stubs (`pdserve.v1`), typed errors and a client.

This file runs whenever a stub is imported, so it stays light.
"""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # grpc takes a quarter of a second to import; whoever needs only a stub does not pay for the client
    if name == "AsyncClient":
        from pdserve.client import AsyncClient

        return AsyncClient
    raise AttributeError(f"module 'pdserve' has no attribute '{name}'")
