"""Text of a chart's template, from objects with actions of Go's templates in them."""

import re
from typing import Any

import yaml

_ACTION = re.compile(r"'(\{\{ .*? \}\})'")
_MARK = re.compile(r"^( *(?:- )?)when\((.+?)\)(.*)$")


def value(path: str, how: str = "toJson") -> str:
    """Return an action that writes a value of values.yaml; JSON is YAML that needs no indentation."""
    return f"{{{{ .Values.{path} | {how} }}}}"


def when(condition: str, key: str) -> str:
    """Return a key that is there under a condition: of an object, or the first of a list's item.

    As the first key of an item it stands for the whole item.
    """
    return f"when({condition}){key}"


def document(content: dict[str, Any], condition: str | None = None) -> str:
    """Return a YAML document, which is there under a condition if one is given."""
    text = "---\n" + block(content)
    return text if condition is None else f"{{{{- if {condition} }}}}\n{text}{{{{- end }}}}\n"


def block(content: dict[str, Any]) -> str:
    """Return YAML with its actions unquoted and its conditions on lines of their own."""
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)
    return _with_conditions(_ACTION.sub(r"\1", text))


def _with_conditions(text: str) -> str:
    lines: list[str] = []
    open_at: list[int] = []  # indentation of what each open condition covers
    for line in [*text.splitlines(), "end"]:
        indent = len(line) - len(line.lstrip(" "))
        while line and open_at and indent <= open_at[-1]:
            lines.append(" " * open_at.pop() + "{{- end }}")
        if found := _MARK.match(line):
            lines.append(" " * indent + f"{{{{- if {found[2]} }}}}")
            open_at.append(indent)
            line = found[1] + found[3]
        lines.append(line)
    return "\n".join(lines[:-1]) + "\n"


class _Dumper(yaml.SafeDumper):
    """Dumper of indented lists, without anchors, and with texts of several lines as such."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, data: str) -> yaml.ScalarNode:
    style = "|" if "\n" in data else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _text)
