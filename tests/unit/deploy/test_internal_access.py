"""Certificates between routers and workers: where they are made, where given, and where there are none."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from common.certificates import PemFiles, Pems
from common.config import SecurityConfig, ServeConfig
from common.rpc.internal_tls import NAME
from deploy.internal_access import make_certificates, new_access
from pdserve.errors import SetupError
from tests.certificates import Authority

CLUSTER = "10.0.0.1:6379"


def config(address: str | None, **security: object) -> ServeConfig:
    return ServeConfig.model_validate({"ray_address": address, "security": security})


def test_a_cluster_has_them_and_loopback_does_not() -> None:
    here, there = new_access(config(None)), new_access(config(CLUSTER))
    assert (here.worker.certificates, here.router.certificates) == (None, None)
    assert isinstance(there.worker.certificates, Pems)
    assert isinstance(there.router.certificates, Pems)
    assert there.worker.token == there.router.token != here.router.token
    switched_off = new_access(config(CLUSTER, internal_tls="off"))
    assert switched_off.worker.certificates is None


def test_each_deployment_has_an_authority_of_its_own_and_two_kinds_of_certificates() -> None:
    worker, router = make_certificates()
    other, _ = make_certificates()
    assert worker.authority == router.authority != other.authority
    usages = []
    for pems in (worker, router):
        made = x509.load_pem_x509_certificate(pems.chain)
        made.verify_directly_issued_by(x509.load_pem_x509_certificate(pems.authority or b""))
        names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [NAME]
        assert (made.not_valid_after_utc - made.not_valid_before_utc).days > 3650
        usages.append(list(made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value))
    assert usages == [[ExtendedKeyUsageOID.SERVER_AUTH], [ExtendedKeyUsageOID.CLIENT_AUTH]]


def test_given_files_are_used_and_refused_at_once_when_they_are_unfit(tmp_path: Path) -> None:
    authority = Authority()
    pair = authority.issue(tmp_path / "own", NAME)
    ca = authority.write(tmp_path / "ca")
    given = {
        "internal_tls": "files",
        "internal_key_file": pair.key,
        "internal_cert_file": pair.chain,
        "internal_ca_file": ca,
    }
    for address in (None, CLUSTER):
        access = new_access(config(address, **given))
        assert access.worker.certificates == PemFiles(pair.key, pair.chain, ca)
        assert access.router.certificates == access.worker.certificates
    ca.write_text("no certificate")
    with pytest.raises(SetupError, match=r"TLS files .*internal_ca_file"):
        new_access(config(None, **given))


@pytest.mark.parametrize(
    "given",
    [
        {"internal_tls": "files"},
        {"internal_tls": "files", "internal_key_file": "k", "internal_cert_file": "c"},
        {"internal_ca_file": "a"},
        {
            "internal_tls": "off",
            "internal_key_file": "k",
            "internal_cert_file": "c",
            "internal_ca_file": "a",
        },
    ],
)
def test_files_and_their_settings_need_each_other(given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="need each other"):
        SecurityConfig.model_validate(given)
