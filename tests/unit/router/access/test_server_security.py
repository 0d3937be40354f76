from pathlib import Path

import pytest

from common.config import SecurityConfig
from pdserve.errors import SetupError
from router.access.server_security import ServerSecurity, is_loopback
from router.access.tls import server_certificates
from tests.certificates import Authority
from tests.integration.support.guarded_router import ACME, issue


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_authentication(host: str) -> None:
    assert is_loopback(host)
    ServerSecurity(SecurityConfig()).check(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "10.0.0.7", "router.example", ""])
def test_beyond_loopback_somebody_must_say_so(host: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="pass --insecure") as caught:
        ServerSecurity(SecurityConfig()).check(host)
    assert "\n" not in str(caught.value)
    assert "pdserve token create" in caught.value.remedy
    ServerSecurity(SecurityConfig(insecure=True)).check(host)
    issue(tmp_path / "access", ACME)
    ServerSecurity(SecurityConfig(access_file=tmp_path / "access")).check(host)


def test_tls_files_must_fit_each_other(tmp_path: Path) -> None:
    authority = Authority()
    good, other = (authority.issue(tmp_path / name, "localhost") for name in ("a", "b"))
    files = {"tls_cert_file": good.chain, "tls_key_file": good.key}
    assert server_certificates(SecurityConfig()) is None
    assert server_certificates(SecurityConfig(**files)) is not None
    noise = tmp_path / "noise.pem"
    noise.write_text("no certificate")
    for wrong in (
        {"tls_key_file": other.key},
        {"tls_key_file": noise},
        {"tls_cert_file": noise},
        {"tls_cert_file": tmp_path / "missing"},
        {"tls_client_ca_file": noise, "access_file": noise},
    ):
        with pytest.raises(SetupError, match="TLS files") as caught:
            server_certificates(SecurityConfig(**{**files, **wrong}))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"tls_cert_file": "c"},
        {"tls_key_file": "k"},
        {"tls_client_ca_file": "a"},
        {"tls_client_ca_file": "a", "tls_cert_file": "c", "tls_key_file": "k"},
        {"tls_client_ca_file": "a", "access_file": "f"},
    ],
)
def test_settings_that_need_each_other_say_so(given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="need"):
        SecurityConfig.model_validate(given)


def test_a_key_with_a_password_is_refused_by_name(tmp_path: Path) -> None:
    pair = Authority().issue(tmp_path / "a", "localhost")
    pair.encrypt_key(b"password")
    config = SecurityConfig(tls_cert_file=pair.chain, tls_key_file=pair.key)
    with pytest.raises(SetupError, match="encrypted"):
        server_certificates(config)
