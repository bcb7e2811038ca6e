"""The command line: `stylereel COMMAND ...`. Flags come from function signatures, help from their docstrings.

Exit codes: 0 done, 2 a mistake that one sentence on stderr explains, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from stylereel.weights.commands import weights_convert, weights_get, weights_info, weights_list, weights_verify

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from stylereel.record import Stages

USAGE = "usage: stylereel COMMAND ...  (stylereel COMMAND --help tells more)"


def drive(arguments: list[str]) -> None:
    """Move a portrait as the face in a clip moves."""
    import stylereel
    from stylereel.drive import VERBS, drive, verb_options
    from stylereel.record import Stages

    text = "stylereel systems lists the systems; drive SYSTEM --help also shows a system's own flags."
    parser = _parser("drive SYSTEM", text)
    _add_flags(parser, drive, skip={"system", "options", "stages"})
    if arguments and arguments[0] in ("-h", "--help"):
        parser.print_help()
        return
    if not arguments or arguments[0].startswith("-"):
        raise ValueError("Name the system first: stylereel drive SYSTEM ...; stylereel systems lists them.")
    name, *rest = arguments
    stages = Stages()
    with stages("load"):
        system = stylereel.load(name)
    options = verb_options(system)
    parser.prog = f"stylereel drive {name}"
    for option, parameter in options.items():
        texts = (_argument_texts(getattr(system, verb)).get(option, "") for verb in VERBS)
        _add_flag(parser, option, parameter, next(filter(None, texts), ""))
    given = _parse(parser, rest)
    own = {option: given.pop(option) for option in options}
    with _progress() as stages.watch:
        record = drive(system, **given, options=own, stages=stages)
    frames, (width, height) = record["frames"], record["size"]
    sound = "with the clip's sound" if record["sound"] else "without sound"
    print(f"{frames['written']} frames of {width} x {height} at {record['rate']} frames a second, {sound}")
    if lost := frames["without a face"]:
        print(f"no face was found in {len(lost)} frames: {', '.join(map(str, lost))}")
    _print_result(record)


def demo(*, out: str) -> None:
    """Make the demonstration clips.

    Args:
        out: folder to put them in; it is made if needed.
    """
    from pathlib import Path

    from stylereel.demo import make

    result = make(Path(out))
    for line in result.get("summary", ()):
        print(line)
    _print_result(result)


def systems() -> None:
    """List the systems by name."""
    import stylereel

    for name in stylereel.list_systems():
        print(name)


def sheet(file: str, /, *, out: str, columns: int = 6, rows: int = 4, size: int = 192) -> None:
    """Put frames of a clip on one picture, evenly spaced from the first to the last.

    Args:
        file: the clip.
        out: the picture to write (.png, .jpg or .webp).
        columns: frames in a row.
        rows: rows of frames, at most.
        size: longer side of a frame on the sheet, in pixels.
    """
    from stylereel.media import ensure_writable
    from stylereel.media.pictures import save_picture
    from stylereel.media.sheet import contact_sheet, shrink
    from stylereel.media.video import VideoReader

    ensure_writable(out)
    if min(columns, rows, size) < 1:
        raise ValueError("A sheet needs 1 or more columns, rows and pixels; give larger numbers.")
    reader = VideoReader(file)
    num_frames = reader.num_frames or sum(1 for _ in reader)
    count = min(columns * rows, num_frames)
    wanted = {round(place * (num_frames - 1) / max(count - 1, 1)) for place in range(count)}
    frames = [shrink(frame, size) for index, frame in enumerate(reader) if index in wanted]
    save_picture(out, contact_sheet(frames, columns, [f"{float(i / reader.rate):.2f} s" for i in sorted(wanted)]))
    print(out)


def world_sheet(*, out: str, seed: int = 0, columns: int = 6, rows: int = 4, size: int = 192) -> None:
    """Draw invented people of the procedural world on one picture, each from a seed of its own.

    Args:
        out: the picture to write (.png, .jpg or .webp).
        seed: the first person's seed; the others count up from it.
        columns: portraits in a row.
        rows: rows of portraits.
        size: side of a portrait, in pixels.
    """
    import numpy as np

    from stylereel.media import ensure_writable
    from stylereel.media.pictures import save_picture
    from stylereel.media.sheet import contact_sheet
    from stylereel.world.draw import draw
    from stylereel.world.factors import LATENT_DIM, from_latent

    ensure_writable(out)
    if min(columns, rows, size) < 1 or seed < 0:
        raise ValueError("A sheet needs a seed of 0 or more and 1 or more columns, rows and pixels.")
    seeds = range(seed, seed + columns * rows)
    latents = [np.random.default_rng(each).standard_normal(LATENT_DIM) for each in seeds]
    portraits = [draw(from_latent(latent), size).image for latent in latents]
    save_picture(out, contact_sheet(portraits, columns, [f"seed {each}" for each in seeds]))
    print(out)


def train(
    network: Literal["generator", "perception", "encoder", "stylemask"],
    /,
    *,
    folder: str,
    start: Literal["scratch", "builtin"] = "scratch",
    scale: float = 1.0,
) -> None:
    """Train built-in weights on the procedural world; an interrupted run goes on where it was.

    Args:
        network: perception first; generator needs it; encoder and stylemask need both.
        folder: where checkpoints, logs, sample pictures and the finished weight files go.
        start: from random weights, or from the built-in ones.
        scale: share of the recipe's steps, for a trial run.
    """
    from stylereel.recipes import train

    for path in train(network, folder, start, scale):
        print(path)


COMMANDS: dict[str, Callable[..., None]] = {
    "drive": drive,  # reads its arguments itself, since the system named first decides which there are
    "demo": demo,
    "systems": systems,
    "sheet": sheet,
    "world sheet": world_sheet,
    "train": train,
    "weights info": weights_info,
    "weights convert": weights_convert,
    "weights list": weights_list,
    "weights get": weights_get,
    "weights verify": weights_verify,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Mistakes of the user become one sentence on stderr."""
    try:
        _run(list(sys.argv[1:] if arguments is None else arguments))
    except (ValueError, OSError) as error:
        print("stylereel: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stylereel: stopped", file=sys.stderr)
        return 130
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    return 0


def _run(arguments: list[str]) -> None:
    if arguments in ([], ["-h"], ["--help"]):
        print(USAGE + "\n")
        for name, command in COMMANDS.items():
            print(f"  {name:<16} {(command.__doc__ or '').splitlines()[0]}")
        return
    if arguments == ["--version"]:
        import stylereel

        print(f"stylereel {stylereel.__version__}")
        return
    name = next((name for name in COMMANDS if arguments[: len(name.split())] == name.split()), None)
    if name is None:
        raise ValueError(f"There is no command {arguments[0]}{_suggestion(arguments[0], list(COMMANDS))}")
    rest = arguments[len(name.split()) :]
    if name == "drive":
        return drive(rest)
    command = COMMANDS[name]
    parser = _parser(name, (command.__doc__ or "").split("Args:")[0].strip())
    _add_flags(parser, command)
    given = _parse(parser, rest)
    parameters = inspect.signature(command).parameters.values()
    positional = [given.pop(p.name) for p in parameters if p.kind is p.POSITIONAL_ONLY]
    command(*positional, **given)


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


def _argument_texts(function: Callable[..., Any]) -> dict[str, str]:
    """What the docstring's Args section says about each argument."""
    from docstring_parser import parse

    texts = parse(function.__doc__ or "").params
    return {text.arg_name: " ".join((text.description or "").split()) for text in texts}


def _add_flags(parser: ArgumentParser, function: Callable[..., Any], skip: Container[str] = ()) -> None:
    texts = _argument_texts(function)
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if name not in skip:
            _add_flag(parser, name, parameter, texts.get(name, ""))


def _add_flag(parser: ArgumentParser, name: str, parameter: inspect.Parameter, text: str) -> None:
    """A function's argument as a flag; positional-only ones have no dashes, a bool has --x and --no-x."""
    from jsonargparse import ActionYesNo

    required = parameter.default is parameter.empty
    flag = "--" + name.replace("_", "-")
    if parameter.kind is parameter.POSITIONAL_ONLY:
        parser.add_argument(name, type=parameter.annotation, help=text)
    elif parameter.annotation is bool:
        parser.add_argument(flag, action=ActionYesNo(no_prefix="no-"), default=parameter.default, help=text)
    elif required:
        parser.add_argument(flag, type=parameter.annotation, required=True, help=text)
    else:
        parser.add_argument(flag, type=parameter.annotation, default=parameter.default, help=text)


def _parse(parser: ArgumentParser, arguments: list[str]) -> dict[str, Any]:
    """The values of the flags.

    Raises:
        ValueError: one sentence that names the flag, what it takes, and the nearest flag for an unknown one.
    """
    from argparse import ArgumentError

    try:
        return parser.parse_args(arguments).as_dict()
    except ArgumentError as error:
        raise ValueError(_sentence(parser, str(error))) from error


def _sentence(parser: ArgumentParser, message: str) -> str:
    flags = {action.dest: (action.option_strings or [action.dest])[0] for action in parser._actions}
    if unknown := re.match(r"unrecognized arguments: (\S+)", message, re.IGNORECASE):
        known = [option for action in parser._actions for option in action.option_strings]
        return f"{parser.prog} has no {unknown[1]}{_suggestion(unknown[1], known)}"
    if missing := re.match(r"the following arguments are required: (.+)", message, re.IGNORECASE):
        names = [flags.get(name.strip(), name.strip()) for name in missing[1].split(",")]
        return f"{parser.prog} needs {', '.join(names)}; --help tells more."
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
def _progress() -> Iterator[Callable[[Stages], None] | None]:
    """A watcher for `Stages` that shows stage, frames done, frames per second and time left on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from stylereel.drive import LOOP

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
    ]
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, speed="")

        def watch(stages: Stages) -> None:
            speed = f"{stages.frames_per_second(stages.done, *LOOP):.1f} frames/s" if stages.done else ""
            name = "render" if stages.current in LOOP else stages.current
            bar.update(task, description=name, completed=stages.done, total=stages.total, speed=speed)

        yield watch


def _print_result(result: dict[str, Any]) -> None:
    """Seconds a stage, frames per second and files, as `drive` and the demonstration give them."""
    seconds: dict[str, float] = result["seconds"]
    print("seconds: " + ", ".join(f"{name} {spent:.1f}" for name, spent in seconds.items()))
    speeds: dict[str, float] = result["frames_per_second"]
    print("frames a second: " + ", ".join(f"{name} {speed:.1f}" for name, speed in speeds.items()))
    for file in result["files"]:
        print(file)
