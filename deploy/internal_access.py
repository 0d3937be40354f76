"""Proof by which routers and workers of one deployment know each other, made when it starts.

Workers share one certificate and routers another. They are kept in memory alone.
"""

import secrets
from dataclasses import dataclass

from common.certificates import Certificates, PemFiles, Pems, WorkerAccess
from common.config import SecurityConfig, ServeConfig


@dataclass(frozen=True, slots=True)
class DeploymentAccess:
    """Proof that a deployment's workers and routers show each other."""

    worker: WorkerAccess
    router: WorkerAccess


def new_access(config: ServeConfig) -> DeploymentAccess:
    """Return a new token, and certificates where TLS is on. Raises SetupError if given files are unfit."""
    token = secrets.token_urlsafe(32)
    worker, router = (WorkerAccess(token, shown) for shown in _certificates(config))
    worker.check()  # unfit files are refused before anything starts
    return DeploymentAccess(worker, router)


def make_certificates() -> tuple[Pems, Pems]:
    """Return certificates for workers, which only serve with them, and for routers, which only call."""
    # a private deployment has no use for it
    from deploy.certificate_authority import CALLS, SERVES, CertificateAuthority

    authority = CertificateAuthority()
    return authority.issue(SERVES), authority.issue(CALLS)


def _certificates(config: ServeConfig) -> tuple[Certificates | None, Certificates | None]:
    if config.security.internal_tls == "files":
        files = _files(config.security)
        return files, files
    # workers of a private Ray listen on loopback, where nobody else can listen in
    is_local = config.ray_address is None
    if is_local or config.security.internal_tls == "off":
        return None, None
    return make_certificates()


def _files(security: SecurityConfig) -> PemFiles:
    paths = security.internal_key_file, security.internal_cert_file, security.internal_ca_file
    key, chain, authority = paths
    if key is None or chain is None or authority is None:
        raise ValueError("the configuration has checked that there are three files")
    return PemFiles(key, chain, authority)
