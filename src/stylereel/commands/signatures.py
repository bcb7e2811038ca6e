"""What a command's signature and docstring say, for all that is made from them: flags, tables of the docs, forms."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stylereel.commands import COMMANDS

CLOCK, OWN = "stages", ("options", "files")  # arguments that no flag stands for: the clock, the subject's own flags
Arguments = dict[str, tuple[inspect.Parameter, Callable[..., Any]]]  # each with the function that documents it


def _place(command: str) -> tuple[str, str]:
    """Module and function of a command; a module of another room has its whole name."""
    module, function = COMMANDS[command].split(":")
    return module if "." in module else f"stylereel.commands.{module}", function


def home(command: str) -> Any:
    """The module of a command."""
    return import_module(_place(command)[0])


def function_of(command: str) -> Callable[..., Any]:
    """The function that is a command."""
    return getattr(home(command), _place(command)[1])


def summary(command: str) -> str:
    """The first line of a command's help, read from its file without importing it, which may take seconds."""
    module, function = _place(command)
    found = find_spec(module)
    assert found is not None and found.origin is not None
    tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
    body = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    return (ast.get_docstring(body) or "").splitlines()[0]


def description(function: Callable[..., Any]) -> str:
    """What a docstring says before its sections."""
    return re.split(r"\n\s*(?:Args|Returns|Raises):", function.__doc__ or "")[0].strip()


def argument_texts(function: Callable[..., Any]) -> dict[str, str]:
    """What the docstring's Args section says about each argument."""
    from docstring_parser import parse

    texts = parse(function.__doc__ or "").params
    return {text.arg_name: " ".join((text.description or "").split()) for text in texts}


def parameters_of(function: Callable[..., Any]) -> Arguments:
    """A command's arguments; `**rendering` stands for those that rendering ones share."""
    found: Arguments = {}
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            from stylereel.commands.rendering import RenderOptions

            found |= parameters_of(RenderOptions)
        else:
            found[name] = parameter, function
    return found
