"""The public library of pdserve: generated stubs (`pdserve.v1`), typed errors and a client.

This file runs whenever a stub is imported, so it stays light.
"""

__version__ = "0.1.0"
