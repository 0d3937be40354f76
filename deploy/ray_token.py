"""Questions to a Ray cluster's head: does it take our token, and is it there?

Ray itself would ask for 30 s, and warn each second.
"""

import grpc
from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

_METHOD = "/ray.rpc.NodeInfoGcsService/GetClusterId"  # of the head; an empty request is one of it
_ANSWER_WITHIN_S = 5.0
_QUICK_S = 1.0


def refuses_token(address: str) -> bool:
    """Return True if the head at host:port demands another token than ours; False also if it is silent."""
    try:
        _ask(address, _ANSWER_WITHIN_S)
    except grpc.RpcError as error:
        refused: bool = error.code() is grpc.StatusCode.UNAUTHENTICATED
        return refused
    return False


def cluster_id(address: str) -> bytes | None:
    """Return what tells the cluster of the head at host:port from others; None without an answer."""
    try:
        return _ask(address, _QUICK_S)
    except grpc.RpcError:
        return None


def _ask(address: str, within_s: float) -> bytes:
    """Return the head's answer. Raises RpcError."""
    headers: dict[str, str] = get_auth_headers_if_auth_enabled({})
    metadata = tuple((name.lower(), value) for name, value in headers.items())
    with grpc.insecure_channel(address) as channel:
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_METHOD)
        return ask(b"", timeout=within_s, metadata=metadata)
