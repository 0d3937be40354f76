from pathlib import Path

import pytest

from router.access.access_file import read_access
from router.access.tenant import Tenant
from tests.unit.cli.conftest import Run


def test_a_token_and_its_line_are_printed_and_fit(run: Run, tmp_path: Path) -> None:
    ended = run("token", "create", "--tenant", "acme")
    token, line = ended.out.splitlines()
    assert (ended.code, token in ended.err) == (0, False)
    file = tmp_path / "access"
    file.write_text(line)
    assert read_access(file).by_token(token.encode()) == Tenant("acme")


def test_appended_lines_let_each_token_in(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "access"
    file.write_text("# ours\nzeta user san:zeta.example")  # no newline at its end
    users = [run("token", "create", "--tenant", "acme", "--append", str(file)) for _ in range(2)]
    admin = run("token", "create", "--tenant", "ops", "--admin", "--append", str(file))
    access = read_access(file)
    found = [access.by_token(ended.out.strip().encode()) for ended in (*users, admin)]
    assert found == [Tenant("acme"), Tenant("acme"), Tenant("ops")]
    assert [tenant and tenant.is_admin for tenant in found] == [False, False, True]
    assert access.by_names(["zeta.example"]) == Tenant("zeta")
    assert "at once" in admin.err


@pytest.mark.parametrize("tenant", ["", "a b", "a/b", "-x", "x" * 65])
def test_a_name_that_is_none_is_one_line(run: Run, tenant: str) -> None:
    ended = run("token", "create", "--tenant", tenant)
    assert ended.code == 2
    assert "1 to 64 of" in ended.line
    assert not ended.out


def test_a_file_that_cannot_be_written_is_one_line(run: Run, tmp_path: Path) -> None:
    ended = run("token", "create", "--tenant", "acme", "--append", str(tmp_path))
    assert (ended.code, str(tmp_path) in ended.line, ended.out) == (2, True, "")
