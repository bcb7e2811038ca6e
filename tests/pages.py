"""The parts of the pages that code writes: `python tests/pages.py` writes them, `test_docs.py` says if they are old.

Such a part stands between `<!-- NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from stylereel.commands import COMMANDS
from stylereel.commands.reproduce import list_studies
from stylereel.commands.signatures import CLOCK, OWN, argument_texts, function_of, home, parameters_of, summary
from stylereel.commands.train import list_networks
from stylereel.core.builtin import BUILTIN
from stylereel.metrics.registry import describe
from stylereel.systems import list_systems
from stylereel.zoo.registry import ROWS

ROOT = Path(__file__).parents[1]
ENTRY = re.compile(r"^- \*\*([\w ]+):\*\*(.*?)(?=^- \*\*|\Z)", re.MULTILINE | re.DOTALL)  # of a card


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *([cell(text) for text in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cards() -> dict[str, dict[str, str]]:
    """What the card beside each built-in weight file says of it, by the file's name: Data, Licence ..."""
    found: dict[str, dict[str, str]] = {}
    for card in sorted(BUILTIN.glob("*.md")):
        text = card.read_text(encoding="utf-8")
        said = {key: entry.partition("\n\n")[0] for key, entry in ENTRY.findall(text)}
        entries = {key: re.sub(r"\s+", " ", entry).strip() for key, entry in said.items()}
        for name in re.findall(r"[\w-]+\.safetensors", text.partition("\n")[0]):
            assert name not in found, f"{name} has two cards"
            found[name] = {"card": card.name, **entries}
    return found


def builtin_licences() -> str:
    known = cards()
    rows = []
    for path in sorted(BUILTIN.glob("*.safetensors")):
        card = known[path.name]
        link = f"[{card['card']}](../src/stylereel/builtin/{card['card']})"
        rows.append([f"`{path.name}`", card["Licence"], card["Data"], link])
    return table(["file", "licence", "trained on", "card"], rows)


def official_licences() -> str:
    rows = []
    for row in ROWS:
        host = re.sub(r"^https?://(www\.)?", "", row.url).split("/")[0]
        source = f"[{host}]({row.url})" + (", by hand" if row.manual else "")
        rows.append([f"`{row.name}`", row.about, row.licence, source, ", ".join(row.needed_by)])
    return table(["file", "what", "licence", "source", "for"], rows)


def takes(kind: Any) -> str:
    """What a flag takes, in a word or two; nothing for a switch."""
    if get_origin(kind) is Literal:
        return " or ".join(f"`{word}`" for word in get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        words = [takes(part) for part in get_args(kind) if part is not NoneType]
        return " or ".join(dict.fromkeys(words))
    return {bool: "", int: "whole number", float: "number"}.get(kind, "text")


def flag_rows(parameters: Mapping[str, tuple[inspect.Parameter, Callable[..., Any]]]) -> list[list[str]]:
    """Flag, what it takes, default, meaning: for each argument and the function that documents it."""
    rows = []
    for name, (parameter, documented) in parameters.items():
        kind, default = parameter.annotation, parameter.default
        flag = f"`--{name.rstrip('_').replace('_', '-')}`"
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            flag = name.upper() + " ..." * (parameter.kind is parameter.VAR_POSITIONAL)
        if default is parameter.empty:
            value = "" if parameter.kind is parameter.VAR_POSITIONAL else "needed"
        else:
            value = "" if default is None or default is False or default == "" else f"`{default}`"
        rows.append([flag, takes(kind), value, argument_texts(documented).get(name, "")])
    return rows


def subjects(command: str) -> list[str]:
    """The systems or networks that a command with a subject takes."""
    names = list_networks() if command == "train" else list_studies() if command == "reproduce" else list_systems()
    return [name for name in names if offers(command, name)]


def offers(command: str, subject: str) -> bool:
    try:
        home(command).flags(subject)
    except ValueError:
        return False
    return True


def takes_subject(command: str) -> bool:
    return hasattr(home(command), "flags")


def shared_flags(command: str) -> str:
    """The table of a command's flags but those that a system or network brings."""
    function = function_of(command)
    parameters = parameters_of(function)
    skip = {CLOCK, next(iter(parameters)), *OWN} if takes_subject(command) else {CLOCK}
    rows = flag_rows({name: each for name, each in parameters.items() if name not in skip})
    return table(HEAD, rows) if rows else "No flags.\n"


def own_flags(command: str, *chosen: str) -> str:
    """A table for each system or network that brings flags of its own, or for those chosen."""
    text = ""
    for subject in chosen or subjects(command):
        flags = {name: each for group in home(command).flags(subject).values() for name, each in group.items()}
        if flags:
            text += f"\n`stylereel {command} {subject}` also takes\n\n{table(HEAD, flag_rows(flags))}"
    return text


def commands() -> str:
    """Every command, in the order of the help: what it does and its flags."""
    text = ""
    for command in COMMANDS:
        name = command
        if takes_subject(command):
            name += " " + next(iter(inspect.signature(function_of(command)).parameters)).upper()
        text += f"\n## stylereel {name}\n\n{summary(command)}\n\n{shared_flags(command)}"
        text += own_flags(command) if takes_subject(command) else ""
    return text


HEAD = ["flag", "takes", "default", "meaning"]

# page -> part -> what writes it
PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "docs/commands.md": {"commands": commands},
    "docs/corpora.md": {"flags": partial(shared_flags, "prepare")},
    "docs/training.md": {"flags": partial(shared_flags, "train")},
    "docs/driving.md": {"flags": partial(shared_flags, "drive")},
    "docs/measures.md": {"measures": describe},
    "docs/licences.md": {"built in": builtin_licences, "official": official_licences},
}


def current(page: str) -> str:
    """The text of a page with its written parts as they should be."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, write in PARTS[page].items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        assert mark and "<!-- end -->" in rest, f"{page} has no part {name}"
        text = f"{before}{mark}{write()}<!-- end -->" + rest.partition("<!-- end -->")[2]
    return text


if __name__ == "__main__":
    for page in PARTS:
        (ROOT / page).write_text(current(page), encoding="utf-8")
