"""Command lines in manifests, checked against the commands themselves."""

import re
import shlex
from collections.abc import Sequence

import click
import typer.main
from ray.scripts.scripts import cli as ray_cli
from typer.core import TyperGroup
from typer.exceptions import TyperException

from cli.main import app
from scripts.kustomize import Doc, containers, pod_templates


def container_commands(docs: list[Doc]) -> list[list[str]]:
    """Return the words of every `pdserve ...` that a container runs."""
    found = []
    for doc in docs:
        for _, template in pod_templates(doc):
            for container in containers(template["spec"]):
                words = [*container.get("command", []), *container.get("args", [])]
                if words[:1] == ["pdserve"]:
                    found.append(words)
    return found


def shell_commands(lines: Sequence[str], program: str) -> list[list[str]]:
    """Return the words of every call of `program` in shell lines.

    A call ends at a redirection or at the line's end.
    """
    found = []
    for line in lines:
        for call in re.findall(rf"(?:^|[;&]|exec )\s*({program} [^;&>]*)", line):
            found.append(shlex.split(call))
    return found


def pdserve_problems(words: Sequence[str]) -> list[str]:
    """Return what the real command line refuses."""
    command, rest = typer.main.get_command(app), list(words[1:])
    while isinstance(command, TyperGroup):
        name = rest.pop(0)
        if name not in command.commands:
            return [f"{shlex.join(words)}: no such command {name}"]
        command = command.commands[name]
    try:
        command.make_context(words[0], rest)  # parses, and runs nothing
    except TyperException as error:
        return [f"{shlex.join(words)}: {error}"]
    return []


def ray_problems(words: Sequence[str]) -> list[str]:
    """Return the options that the real `ray` command does not have."""
    command = ray_cli.commands.get(words[1])
    if command is None:
        return [f"{shlex.join(words)}: no such command"]
    known = {option for p in command.params if isinstance(p, click.Option) for option in p.opts}
    given = [word.partition("=")[0] for word in words[2:] if word.startswith("--")]
    return [
        f"{shlex.join(words)}: no such option {option}" for option in given if option not in known
    ]


def option(words: Sequence[str], name: str) -> str:
    """Return the value after an option."""
    return words[list(words).index(name) + 1]
