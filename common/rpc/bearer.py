"""Bearer tokens in the Authorization header, or in gRPC's metadata of that name (RFC 6750)."""


def token_of(header: str) -> bytes | None:
    """Return the token of `Bearer TOKEN`; None from a header that has none."""
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        return None
    return token.strip().encode("latin-1", "replace")


def bearer_metadata(token: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata that carries a token; none for an empty token."""
    return (("authorization", f"Bearer {token}"),) if token else ()
