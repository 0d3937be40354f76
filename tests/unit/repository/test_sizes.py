import ast

from tests.unit.repository.sources import ROOT, modules, packages, statements

MAX_FILE, MAX_FUNCTION = 250, 40
FOLDERS = [*packages(), ROOT / "scripts", ROOT / "tests"]
# "path" or "path:function" -> the reason for its length
LONGER: dict[str, str] = {}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def num_lines(function: Function) -> int:
    """Count lines from `def` to the end, without decorators."""
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def too_long() -> dict[str, int]:
    found = {}
    for path, module in modules(*FOLDERS):
        lines = len((ROOT / path).read_text("utf-8").splitlines())
        if lines > MAX_FILE:
            found[path] = lines
        for node in statements(module):
            if isinstance(node, Function) and num_lines(node) > MAX_FUNCTION:
                found[f"{path}:{node.name}"] = num_lines(node)
    return found


def test_files_have_at_most_250_lines_and_functions_at_most_40() -> None:
    found = too_long()
    assert {name: size for name, size in found.items() if name not in LONGER} == {}
    assert set(LONGER) <= set(found), "an exception that nothing needs any more"


def test_a_function_is_measured_from_its_name_to_its_end() -> None:
    source = "@decorated\ndef f(\n    a: int,\n) -> int:\n    return a\n"
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    assert num_lines(function) == 4
