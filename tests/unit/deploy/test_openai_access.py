from pathlib import Path

import pytest
import structlog

from common.config import SecurityConfig, ServeConfig
from deploy.openai_access import check_usable, openai_access
from pdserve.errors import SetupError
from tests.certificates import Authority, touch_later

KEY, OTHER = "sk-0123456789abcdef", "sk-fedcba9876543210"


def write(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(lines))
    file.chmod(0o600)
    touch_later(file)
    return file


def test_each_key_is_its_clients_and_a_client_may_have_two(tmp_path: Path) -> None:
    file = write(tmp_path / "keys", "# a remark", f"alice {KEY}", "", f"alice\t {OTHER}")
    access = openai_access(ServeConfig(openai_keys_file=file)).current()
    assert access.arguments() == [
        f"--tenant-api-key=alice:{KEY}",
        f"--tenant-api-key=alice:{OTHER}",
    ]
    assert KEY not in repr(access)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("alice", "it is not NAME KEY"),
        (f"alice {KEY} more", "it is not NAME KEY"),
        (f"a:b {KEY}", "a tenant is 1 to 64 of"),
        ("alice short", "16 to 512 visible ASCII characters"),
        (
            "alice sk-\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9",
            "visible ASCII",
        ),
        (f"bob {KEY}", "an earlier line has the same key"),
    ],
)
def test_a_bad_line_is_told_by_its_number_and_not_shown(
    tmp_path: Path, line: str, why: str
) -> None:
    file = write(tmp_path / "keys", f"carol {KEY}", line)
    with pytest.raises(SetupError, match="line 2: ") as caught:
        openai_access(ServeConfig(openai_keys_file=file))
    assert why in str(caught.value)
    assert "sk-" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_key_no_file_and_one_for_all_to_read_are_told(tmp_path: Path) -> None:
    file = write(tmp_path / "keys", "# nobody")
    with pytest.raises(SetupError, match="has no key"):
        openai_access(ServeConfig(openai_keys_file=file))
    with pytest.raises(SetupError, match="cannot be read"):
        openai_access(ServeConfig(openai_keys_file=tmp_path / "missing"))
    write(file, f"alice {KEY}").chmod(0o644)
    with structlog.testing.capture_logs() as logs:
        openai_access(ServeConfig(openai_keys_file=file))
    assert [entry["event"] for entry in logs] == ["openai_keys_open_to_others"]


def test_the_routers_certificate_is_the_gateways_too_and_files_are_read_again(
    tmp_path: Path,
) -> None:
    authority = Authority()
    pair = authority.issue(tmp_path / "server", "localhost")
    security = SecurityConfig(tls_cert_file=pair.chain, tls_key_file=pair.key)
    file = write(tmp_path / "keys", f"alice {KEY}")
    access = openai_access(ServeConfig(openai_keys_file=file, security=security))
    first = access.current()
    assert first.certificate == (pair.chain, pair.key)
    assert access.current() is first
    authority.issue(tmp_path / "server", "localhost")
    renewed = access.current()
    assert renewed != first
    touch_later(pair.chain)
    write(file, "# a remark", f"alice {KEY}")
    assert access.current() is renewed
    write(file, "nonsense")
    assert access.current() is renewed
    write(file, f"alice {OTHER}")
    assert access.current().keys == (("alice", OTHER),)


def test_without_keys_it_is_refused_beside_an_access_file_unless_somebody_says_so() -> None:
    closed = SecurityConfig(access_file=Path("access"))
    with pytest.raises(SetupError, match="needs openai_keys_file") as caught:
        check_usable(ServeConfig(security=closed, openai_tenant="web"))
    assert "as tenant web" in str(caught.value)
    assert "\n" not in str(caught.value)
    check_usable(ServeConfig(security=closed, openai_keys_file=Path("keys")))
    check_usable(ServeConfig(security=SecurityConfig(access_file=Path("access"), insecure=True)))
    check_usable(
        ServeConfig(security=SecurityConfig(tls_cert_file=Path("c"), tls_key_file=Path("k")))
    )
