from hashlib import sha256
from pathlib import Path

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from common.reloading import Reloading
from pdserve.errors import SetupError
from router.access.access_file import AccessList, access_line, make_token, read_access
from router.access.tenant import Tenant
from tests.certificates import touch_later

ACME, OPS = Tenant("acme"), Tenant("ops", is_admin=True)
HASH = sha256(b"secret").hexdigest()
roles = st.booleans()
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)


def write(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(lines))
    touch_later(file)
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "access"


def test_tokens_and_certificates_lead_to_tenants_and_roles(file: Path) -> None:
    tokens = [make_token(), make_token()]
    lines = [access_line(ACME, tokens[0]), "  # a remark", "", access_line(OPS, tokens[1])]
    access = read_access(write(file, *lines, "\tzeta  user san:spiffe://example/zeta"))
    found = [access.by_token(token.encode()) for token in tokens]
    assert found == [ACME, OPS]
    assert [tenant and tenant.is_admin for tenant in found] == [False, True]
    assert access.by_names(["other", "spiffe://example/zeta"]) == Tenant("zeta")
    assert access.by_names([]) is None
    for stranger in (b"", b"secret", tokens[0][:-1].encode(), HASH.encode(), b"\xff"):
        assert access.by_token(stranger) is None


def test_a_token_is_long_and_its_line_does_not_hold_it() -> None:
    token = make_token()
    assert len(token) >= 43  # 256 bits
    assert token not in access_line(ACME, token)
    assert make_token() != token


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.tuples(names, roles), min_size=1, max_size=5))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, tenants: list[tuple[str, bool]]
) -> None:
    issued = [(Tenant(name, is_admin=role), make_token()) for name, role in tenants]
    file = tmp_path_factory.getbasetemp() / "access"
    access = read_access(write(file, *(access_line(tenant, token) for tenant, token in issued)))
    for tenant, token in issued:
        found = access.by_token(token.encode())
        assert found == tenant
        assert found is not None
        assert found.is_admin == tenant.is_admin


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("acme user", "TENANT user|admin CREDENTIAL"),
        (f"acme root sha256:{HASH}", "TENANT user|admin CREDENTIAL"),
        (f"acme user sha256:{HASH} more", "TENANT user|admin CREDENTIAL"),
        ("acme user sha256:abc", "sha256:<64 hex digits>"),
        ("acme user secret", "sha256:<64 hex digits>"),
        (f"a/b user sha256:{HASH}", "1 to 64 of"),
        (f"{'a' * 65} user sha256:{HASH}", "1 to 64 of"),
        (f"zeta user sha256:{HASH}", "same credential"),
        ("zeta user san:here", "same credential"),
    ],
)
def test_a_bad_line_is_named_by_number_and_not_repeated(
    file: Path, line: str, expected: str
) -> None:
    write(file, f"acme user sha256:{HASH}", "acme user san:here", line)
    with pytest.raises(SetupError, match="line 3") as caught:
        read_access(file)
    assert expected in str(caught.value)
    assert "secret" not in str(caught.value)
    assert HASH not in str(caught.value)


def test_a_file_that_names_nobody_is_refused(file: Path) -> None:
    for text in ("", "# nobody\n"):
        with pytest.raises(SetupError, match="names nobody"):
            read_access(write(file, text))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SetupError, match="UTF-8"):
        read_access(file)
    with pytest.raises(SetupError, match="cannot be read"):
        read_access(file / "missing")


def test_a_changed_file_counts_at_once_and_a_bad_one_leaves_the_list_as_it_was(
    file: Path,
) -> None:
    first, second = make_token(), make_token()
    write(file, access_line(ACME, first))
    access: Reloading[AccessList] = Reloading([file], lambda: read_access(file))
    assert access.current().by_token(first.encode()) == ACME
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            access.current()  # nothing changed: nothing to say
        write(file, "acme user nonsense")
        for _ in range(3):
            assert access.current().by_token(first.encode()) == ACME
        file.unlink()
        assert access.current().by_token(first.encode()) == ACME
        write(file, access_line(OPS, second))
        assert access.current().by_token(first.encode()) is None
        assert access.current().by_token(second.encode()) == OPS
    refused, reloaded = ["files_refused"] * 2, ["files_reloaded"]
    assert [entry["event"] for entry in logs] == refused + reloaded
