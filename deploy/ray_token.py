"""Question to a Ray cluster, does it take our token? Ray itself would ask for 30 s, and warn each second."""

import grpc
from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

_METHOD = "/ray.rpc.NodeInfoGcsService/GetClusterId"  # of the head; an empty request is one of it
_ANSWER_WITHIN_S = 5.0


def refuses_token(address: str) -> bool:
    """Return True if the head at host:port demands another token than ours; False also if it is silent."""
    headers: dict[str, str] = get_auth_headers_if_auth_enabled({})
    with grpc.insecure_channel(address) as channel:
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_METHOD)
        metadata = tuple((name.lower(), value) for name, value in headers.items())
        try:
            ask(b"", timeout=_ANSWER_WITHIN_S, metadata=metadata)
        except grpc.RpcError as error:
            refused: bool = error.code() is grpc.StatusCode.UNAUTHENTICATED
            return refused
    return False
