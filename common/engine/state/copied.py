"""A module's own forward, in which some names of functions stand for other ones."""

import inspect
from collections.abc import Callable, Mapping
from types import FunctionType, MethodType
from typing import Any

import torch

Function = Callable[..., Any]


def names_in(module: torch.nn.Module) -> tuple[str, ...]:
    """Return the names that a module's forward looks up: functions, and attributes of objects."""
    code = getattr(_own(module), "__code__", None)
    return () if code is None else code.co_names


def function_of(module: torch.nn.Module, name: str) -> Function:
    """Return the function that a module's forward calls by `name`."""
    found: Function = _own(module).__globals__[name]
    return found


def with_functions(module: torch.nn.Module, functions: Mapping[str, Function]) -> Function:
    """Return a copy of a module's forward that calls these; the library's modules stay as they are."""
    own = _own(module)
    names = own.__globals__ | functions
    copied = FunctionType(own.__code__, names, own.__name__, own.__defaults__, own.__closure__)
    return MethodType(copied, module)


def _own(module: torch.nn.Module) -> Any:
    return inspect.unwrap(type(module).forward)
