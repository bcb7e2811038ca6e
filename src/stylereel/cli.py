"""The command line: `stylereel COMMAND ...`. Flags come from function signatures, help from their docstrings.

Exit codes: 0 done, 2 a mistake that one sentence on stderr explains, 130 stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from stylereel.commands import COMMANDS, signatures
from stylereel.commands.signatures import CLOCK, OWN, argument_texts, description, parameters_of, summary
from stylereel.core.seeds import check_seed

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from stylereel.core.record import Stages

USAGE = """usage: stylereel [--keep-memory] COMMAND ...  (stylereel COMMAND --help shows its flags)

--keep-memory makes the C library keep freed memory, which speeds up training and large images on Linux."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Mistakes of the user become one sentence on stderr."""
    try:
        with _signals_as_ctrl_c():
            _run(list(sys.argv[1:] if arguments is None else arguments))
    except (ValueError, OSError) as error:
        print("stylereel: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("; ".join(["stylereel: stopped", *map(str, stop.args)]), file=sys.stderr)
        return 130
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    return 0


@contextmanager
def _signals_as_ctrl_c() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a terminal that closes, end the program as Ctrl-C does: files in work are removed."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def stop(number: int, _: Any) -> None:
        if os.getpid() == process:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)  # a fork, which has no files in work
        os.kill(os.getpid(), number)

    before = {number: signal.getsignal(number) for number in numbers}
    ours = [number for number, handler in before.items() if handler is signal.SIG_DFL]  # nohup ignores one
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


def _run(arguments: list[str]) -> None:
    if arguments[:1] == ["--keep-memory"]:
        from stylereel.generator import keep_memory

        if not keep_memory():
            print("stylereel: this C library has no setting to keep memory; --keep-memory is ignored", file=sys.stderr)
        arguments = arguments[1:]
    if arguments in ([], ["-h"], ["--help"]):
        print(USAGE + "\n")
        for name in COMMANDS:
            print(f"  {name:<16} {summary(name)}")
        return
    if arguments == ["--version"]:
        from stylereel.core.version import __version__

        print(f"stylereel {__version__}")
        return
    name = next((name for name in COMMANDS if arguments[: len(name.split())] == name.split()), None)
    if name is None:
        raise ValueError(f"There is no command {arguments[0]}{_suggestion(arguments[0], list(COMMANDS))}")
    _command(name, arguments[len(name.split()) :])


def _command(name: str, arguments: list[str]) -> None:
    """Parse the arguments of a command by its function's signature, run it, and print what it gives."""
    home, function = signatures.home(name), signatures.function_of(name)
    own = getattr(home, "flags", None)
    subject: list[str] = []
    groups: Mapping[str, Mapping[str, tuple[inspect.Parameter, Callable[..., Any]]]] = {}
    if own is not None:
        first = next(iter(inspect.signature(function).parameters))
        if not arguments or arguments[0].startswith("-") and arguments[0] not in ("-h", "--help"):
            raise ValueError(f"Name the {first} first: stylereel {name} {first.upper()} ...; --help lists them.")
        if arguments[0] in ("-h", "--help"):
            parser = _parser(f"{name} {first.upper()}", f"{description(function)} {home.subjects()}")
            _add_flags(parser, function, skip=(first, CLOCK, *OWN))
            parser.print_help()
            return
        subject, arguments = [arguments[0]], arguments[1:]
        groups = own(subject[0])
    parser, parameters = _parser(" ".join([name, *subject]), description(function)), parameters_of(function)
    _add_flags(parser, function, skip=(*list(parameters)[: len(subject)], CLOCK, *groups))
    for group in groups.values():
        for option, (parameter, documented) in group.items():
            _add_flag(parser, option, parameter, argument_texts(documented).get(option, ""))
    given = _parse(parser, arguments)
    for flag in ("seed", "movement", "towards"):
        if given.get(flag) is not None:
            check_seed(given[flag], f"--{flag}")
    given = {f"{name}_" if f"{name}_" in parameters else name: value for name, value in given.items()}
    for keyword, group in groups.items():
        chosen = {option: given.pop(option.rstrip("_"), None) for option in group}
        given[keyword] = {option: value for option, value in chosen.items() if value is not None}
    kinds = [parameter for parameter, _ in parameters.values()]
    positional = [given.pop(p.name) for p in kinds if p.kind is p.POSITIONAL_ONLY and p.name in given]
    positional += [each for p in kinds if p.kind is p.VAR_POSITIONAL for each in given.pop(p.name)]
    if CLOCK in parameters:
        from stylereel.core.record import Stages

        given[CLOCK] = Stages()
        with _progress() as given[CLOCK].watch:
            result = function(*subject, *positional, **given)
    else:
        result = function(*subject, *positional, **given)
    for line in getattr(home, "lines", _items)(result):
        print(line)


def _items(result: Any) -> Iterable[Any]:
    """A line for each item of a list, one for anything else, none for None."""
    return result if isinstance(result, list | tuple) else [] if result is None else [result]


# --- flags from signatures


def _parser(name: str, description: str) -> ArgumentParser:
    from jsonargparse import ArgumentParser

    return ArgumentParser(
        prog=f"stylereel {name}",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
        add_help=True,
    )


def _add_flags(parser: ArgumentParser, function: Callable[..., Any], skip: Container[str] = ()) -> None:
    for name, (parameter, documented) in parameters_of(function).items():
        if name not in skip:
            _add_flag(parser, name, parameter, argument_texts(documented).get(name, ""))


def _add_flag(parser: ArgumentParser, name: str, parameter: inspect.Parameter, text: str) -> None:
    """A function's argument as a flag; positional ones have no dashes, a bool has --x and --no-x."""
    from jsonargparse import ActionYesNo

    required = parameter.default is parameter.empty
    flag, kind = "--" + name.rstrip("_").replace("_", "-"), _as_text(parameter.annotation)  # for_ is --for
    if parameter.kind is parameter.POSITIONAL_ONLY:
        parser.add_argument(name, type=kind, help=text)
    elif parameter.kind is parameter.VAR_POSITIONAL:
        parser.add_argument(name, type=kind, nargs="*", help=text)
    elif parameter.annotation == tuple[str, ...]:
        parser.add_argument(flag, type=str, action="append", default=[], help=text)
    elif get_origin(kind) is Literal and get_args(kind)[0] == "no" == parameter.default:
        # --x alone is the second of the values.
        parser.add_argument(flag, type=kind, nargs="?", const=get_args(kind)[1], default="no", help=text)
    elif parameter.annotation is bool:
        parser.add_argument(flag, action=ActionYesNo(no_prefix="no-"), default=parameter.default, help=text)
    elif required:
        parser.add_argument(flag, type=kind, required=True, help=text)
    else:
        parser.add_argument(flag, type=kind, default=parameter.default, help=text)


def _as_text(kind: Any) -> Any:
    """What a terminal can give of an annotation: where a path's name will do, it is text (or nothing, where that will
    do too); anything else stays as it is."""
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if not any(part in (str, Path) for part in parts):
        return kind
    return _TextOrNothing() if NoneType in parts else str


class _TextOrNothing:
    """A word as it is, null for None: read as YAML, #3060a0 would be a comment."""

    def __call__(self, word: str) -> str | None:
        return None if word == "null" else word

    def __repr__(self) -> str:
        return "text"


def _parse(parser: ArgumentParser, arguments: list[str]) -> dict[str, Any]:
    """The values of the flags.

    Raises:
        ValueError: one sentence that names the flag, what it takes, and the nearest flag for an unknown one.
    """
    from argparse import ArgumentError

    try:
        given = parser.parse_args(arguments).as_dict()
    except ArgumentError as error:
        raise ValueError(_sentence(parser, str(error))) from error
    for action in parser._actions:
        value = given.get(action.dest)
        if action.default != "" and "" in (value if isinstance(value, list) else [value]):
            # As a path it would be the current folder.
            raise ValueError(
                f"{(action.option_strings or [action.dest])[0]} was given an empty text; give a value or leave it out."
            )
    return given


def _sentence(parser: ArgumentParser, message: str) -> str:
    flags = {action.dest: (action.option_strings or [action.dest])[0] for action in parser._actions}
    if unknown := re.match(r"unrecognized arguments: (\S+)", message, re.IGNORECASE):
        known = [option for action in parser._actions for option in action.option_strings]
        return f"{parser.prog} has no {unknown[1]}{_suggestion(unknown[1], known)}"
    if missing := re.match(r"the following arguments are required: (.+)", message, re.IGNORECASE):
        names = [flags.get(name.strip(), name.strip()) for name in missing[1].split(",")]
        return f"{parser.prog} needs {', '.join(names)}; --help shows all flags."
    if wrong := re.match(r'Parser key "(\w+)":.*value: (.*)$', message, re.DOTALL):
        action = next(action for action in parser._actions if action.dest == wrong[1])
        kind = getattr(action, "_typehint", action.type)
        return f"{flags[wrong[1]]} takes {_in_words(kind)}, not {wrong[2].strip()}."
    return message


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is not None:
        return " or ".join(_in_words(part) for part in get_args(kind))
    return {int: "a whole number", float: "a number", type(None): "null"}.get(
        kind, f"a {getattr(kind, '__name__', kind)}"
    )


def _suggestion(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else "; --help lists what there is."


# --- what the terminal shows


@contextmanager
def _progress() -> Iterator[Callable[[Stages], None]]:
    """A watcher for `Stages` that shows stage, count, speed and time left: a bar on a terminal, elsewhere lines."""
    from stylereel.core.progress import Lines, Watch

    if not sys.stderr.isatty():
        yield Lines(lambda line: print(line, file=sys.stderr, flush=True))
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = [TextColumn("{task.description}"), BarColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task, pace = bar.add_task("", total=None), Watch()

        def watch(stages: Stages) -> None:
            shown = pace(stages)
            bar.update(task, description=str(shown), completed=shown.done, total=shown.total)

        yield watch
