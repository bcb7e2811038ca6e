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
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from stylereel.commands.weights import weights_convert, weights_get, weights_info, weights_list, weights_verify
from stylereel.commands.world import world_clip, world_dataset, world_portrait

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from stylereel.core.record import Stages

USAGE = """usage: stylereel [--keep-memory] COMMAND ...  (stylereel COMMAND --help tells more)

--keep-memory makes the C library keep freed memory, which speeds up training and large pictures on Linux."""


def drive(arguments: list[str]) -> None:
    """Move a portrait as the face in a clip moves."""
    from stylereel.commands.drive import VERBS, drive, verb_options

    record = _with_system("drive", drive, VERBS, verb_options, arguments)
    if record is None:
        return
    if "results" in record:
        for line in record["results"]:
            print(f"{line['source']} by {line['driving']}: {line.get('out') or line['error']}")
        _print_result(record)
        return
    frames, (width, height) = record["frames"], record["size"]
    sound = "with the clip's sound" if record["sound"] else "without sound"
    print(f"{frames['written']} frames of {width} x {height} at {record['rate']} frames a second, {sound}")
    if record["colours"] != "BT.709":
        print(f"the clip's colours: {record['colours']}")
    if lost := frames["without a face"]:
        print(f"no face was found in {len(lost)} frames: {', '.join(map(str, lost))}")
    if doubtful := frames["doubtful"]:
        print(f"eyes, mouth or head were doubtful, and held, in {len(doubtful)} of {frames['driving']} frames")
    if turned := record["face turned by degrees"]:
        print(f"the face is turned by {turned} degrees in the clip; it drives as if it were upright")
    if (count := record["faces in the clip"]) > 1:
        print(f"the clip shows up to {count} faces; --face chooses which one drives")
    for name, unit in {"crop jitter": "of the crop's side", "seam": "levels a pixel"}.items():
        if record[name] is not None:
            print(f"{name}: {record[name]:.2g} {unit}")
    _print_result(record)


def sample(arguments: list[str]) -> None:
    """Make a clip from noise: a motion of any length, shown by one person or by several."""
    from stylereel.commands.sample import VERBS, sample, sample_options

    record = _with_system("sample", sample, VERBS, sample_options, arguments)
    if record is None:
        return
    width, height = record["size"]
    print(f"{record['frames']['written']} frames of {width} x {height} at {record['rate']} frames a second")
    _print_result(record)


def _with_system(
    command: str,
    function: Callable[..., dict[str, Any]],
    verbs: Iterable[str],
    options_of: Callable[[Any], dict[str, inspect.Parameter]],
    arguments: list[str],
) -> dict[str, Any] | None:
    """Run a command whose flags are its function's and its system's own; its record, or None if help was all."""
    from stylereel import systems
    from stylereel.core.record import Stages
    from stylereel.systems import file_options

    text = f"stylereel systems lists the systems; {command} SYSTEM --help also shows a system's own flags."
    parser = _parser(f"{command} SYSTEM", text)
    _add_flags(parser, function, skip={"system", "files", "options", "stages"})
    if arguments and arguments[0] in ("-h", "--help"):
        parser.print_help()
        return None
    if not arguments or arguments[0].startswith("-"):
        raise ValueError(f"Name the system first: stylereel {command} SYSTEM ...; stylereel systems lists them.")
    name, *rest = arguments
    files, rest = _file_flags(parser, name, rest)
    stages = Stages()
    with stages("load"):
        system = systems.load(name, **files)
    options = options_of(system)
    parser.prog = f"stylereel {command} {name}"
    for option, parameter in options.items():
        texts = (_argument_texts(getattr(system, verb)).get(option, "") for verb in verbs)
        _add_flag(parser, option, parameter, next(filter(None, texts), ""))
    given = _parse(parser, rest)
    own = {option: given.pop(option) for option in options}
    for option in file_options(name):
        del given[option]
    with _progress() as stages.watch:
        return function(system, **given, files=files, options=own, stages=stages)


def _file_flags(parser: ArgumentParser, name: str, arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """The values of the flags that name weight files, which have to be known before a system is loaded, and the rest.

    The flags are added to the parser too, for its help.
    """
    from argparse import ArgumentParser as PlainParser

    from stylereel.systems import file_options, find

    early = PlainParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    options = file_options(name)
    for option, parameter in options.items():
        early.add_argument(f"--{option}")
        text = _argument_texts(find(name).from_files).get(option, "")
        _add_flag(parser, option, parameter.replace(default=None, annotation=str | None), text)
    given, rest = early.parse_known_args(arguments)
    files = {option: value for option, value in vars(given).items() if value is not None}
    needed = [option for option, parameter in options.items() if parameter.default is parameter.empty]
    if files and (missing := [f"--{option}" for option in needed if option not in files]):
        raise ValueError(f"Own weights also need {' and '.join(missing)}; --help tells more.")
    return files, rest


def demo(*, out: str) -> None:
    """Make the demonstration clips.

    Args:
        out: folder to put them in; it is made if needed.
    """
    from pathlib import Path

    from stylereel.commands.demo import make

    result = make(Path(out))
    for line in result.get("summary", ()):
        print(line)
    _print_result(result)


def systems() -> None:
    """List the systems by name."""
    from stylereel.systems import list_systems

    for name in list_systems():
        print(name)


def look(*files: str, out: str | None = None, columns: int = 6, rows: int = 4, size: int = 192) -> None:
    """Make a picture of what is in a file: frames of a clip, curves of a motion; several files go side by side.

    Args:
        files: clips, folders of pictures, pictures, or one saved motion, identity or file of codes.
        out: the picture to write (.png, .jpg or .webp); null puts FILE-look.png beside the first file.
        columns: frames in a row.
        rows: rows of frames, at most.
        size: longer side of a frame, in pixels.
    """
    from pathlib import Path

    from stylereel.commands.look import look
    from stylereel.core.files import ensure_writable
    from stylereel.media.pictures import FORMATS, save_picture

    first = Path(files[0])
    target = ensure_writable(out or first.with_name(f"{first.stem}-look.png"), *FORMATS)
    save_picture(target, look(files, columns, rows, size))
    print(target)


def invert(
    source: str,
    /,
    *,
    out: str,
    space: Literal["w", "w+", "features"] = "w+",
    steps: int = 100,
    pti: bool = False,
    encoder: str | None = None,
    generator: str | None = None,
    face: str = "largest",
) -> None:
    """Find the codes of the face in a picture or clip, so that a generator shows it again.

    Args:
        source: a picture or a clip.
        out: the file NAME.safetensors, or a folder for it; NAME.png shows target, reconstruction and difference.
        space: one w, a w for each layer, or a feature map and the layers after it.
        steps: of the optimisation; 0 leaves what the encoder finds.
        pti: also tune the generator to the face.
        encoder: file of a pSp, e4e, ReStyle or HFGI encoder; the built-in one if not given.
        generator: file of the generator; the one in the encoder's file, or the built-in one, if not given.
        face: which of several: largest, left, a number from the left, or a picture of the person.
    """
    from stylereel.commands.invert import invert
    from stylereel.core.record import Stages

    stages = Stages()
    with _progress() as stages.watch:
        record = invert(source, out, space, steps, pti, stages, encoder=encoder, generator=generator, face=face)
    for step, numbers in record["quality"].items():
        distance = f"{record['perceptual']} {numbers['perceptual']:.4f}"
        print(f"{step}: PSNR {numbers['psnr']:.2f} dB, identity {numbers['identity']:.4f}, {distance}")
    print(f"frames: {record['frames']['inverted']}, without a face: {record['frames']['without a face'] or 'none'}")
    if jitter := record["jitter"]:
        print(f"jitter: crop {jitter['crop']:.6f} of its side, landmarks {jitter['landmarks']:.6f}")
    if record["cached"]:
        print("kept from an earlier run")
    for file in record["files"]:
        print(file)


def encode(
    clip: str,
    /,
    *,
    out: str,
    source: str | None = None,
    rate: float = 1.0,
    sound_rate: float = 8.0,
    overwrite: bool = False,
) -> None:
    """Write the face in a clip as a talk file: motion, person, crops and sound in about a kilobit a second.

    Args:
        clip: the clip.
        out: the file to write (.talk).
        source: who is shown: a seed, or a picture, codes or identity; the clip's own face if not given.
        rate: kbit/s of motion, index and checks.
        sound_rate: kbit/s of the sound, 0 leaves it out.
        overwrite: also replace files that an earlier run did not make.
    """
    from stylereel.commands.talk import encode
    from stylereel.core.record import Stages

    stages = Stages()
    with _progress() as stages.watch:
        record = encode(clip, out, source, rate, sound_rate, overwrite=overwrite, stages=stages)
    print("bytes: " + ", ".join(f"{name} {count}" for name, count in record["bytes"].items() if count))
    print("kbit/s: " + ", ".join(f"{name} {rate:g}" for name, rate in record["kbit/s"].items()))
    print("so: " + ", ".join(f"{name} in {count} bytes" for name, count in record["bytes at this rate"].items()))
    for file in record["files"]:
        print(file)


def decode(file: str, /, *, out: str, source: str | None = None, chunk: int = 8, overwrite: bool = False) -> None:
    """Show a talk file as a clip, with its sound.

    Args:
        file: the talk file.
        out: the clip to write, .mp4, .webm, .mkv (lossless) or .gif.
        source: who is shown instead: a seed, or a picture, codes or identity.
        chunk: frames rendered at a time.
        overwrite: also replace files that an earlier run did not make.
    """
    from stylereel.commands.talk import decode
    from stylereel.core.record import Stages

    stages = Stages()
    with _progress() as stages.watch:
        record = decode(file, out, source, chunk, overwrite, stages)
    frames, (width, height) = record["frames"], record["size"]
    print(f"{frames['written']} frames of {width} x {height}, {'with' if record['sound'] else 'without'} sound")
    for first, count in record["lost"]:
        print(f"frames {first} to {first + count - 1} are damaged; they were filled from their neighbours")
    for path in record["files"]:
        print(path)


def world_sheet(*, out: str, seed: int = 0, columns: int = 6, rows: int = 4, size: int = 192) -> None:
    """Draw invented people of the procedural world on one picture, each from a seed of its own.

    Args:
        out: the picture to write (.png, .jpg or .webp).
        seed: the first person's seed; the others count up from it.
        columns: portraits in a row.
        rows: rows of portraits.
        size: side of a portrait, in pixels.
    """
    from stylereel.core.files import ensure_writable
    from stylereel.media.pictures import check_size, save_picture
    from stylereel.media.sheet import contact_sheet
    from stylereel.world.draw import draw
    from stylereel.world.factors import person

    ensure_writable(out)
    if min(columns, rows, size) < 1 or seed < 0:
        raise ValueError("A sheet needs a seed of 0 or more and 1 or more columns, rows and pixels.")
    check_size(columns * size, rows * size, "The sheet")
    seeds = range(seed, seed + columns * rows)
    portraits = [draw(person(each), size).image for each in seeds]
    save_picture(out, contact_sheet(portraits, columns, [f"seed {each}" for each in seeds]))
    print(out)


def train(
    network: Literal["perception", "generator", "generator3", "encoder", "stylemask", "stylevideogan", "directions"],
    /,
    *,
    folder: str = "runs",
    data: str | None = None,
    start: str = "scratch",
    scale: float = 1.0,
    devices: int = 1,
    nodes: int = 1,
    precision: Literal["32", "bf16", "16"] = "bf16",
    accelerator: Literal["auto", "cpu", "cuda"] = "auto",
    generator: str | None = None,
    perception: Literal["builtin", "deca"] = "builtin",
    preset: Literal["quick", "paper", "code"] | None = None,
    encoder: str | None = None,
    seed: int = 0,
) -> None:
    """Train a network on the procedural world, or a generator on your pictures; an interrupted run goes on.

    Args:
        network: perception first; generator (StyleGAN2) and generator3 (StyleGAN3-R) need it; encoder, stylemask
            and directions need generator too.
        folder: where checkpoints, logs, sample pictures and the finished weight files go.
        data: your pictures for the generator, which then trains adversarially, or for another generator's encoder;
            for stylevideogan a clip of one person, or codes that `stylereel invert` wrote; the world if not given.
        start: scratch for random weights, builtin for the built-in ones, or a weight file or a folder of them.
        scale: share of the recipe's steps, for a trial run.
        devices: processes on this machine, each with its own GPU or its share of the cores.
        nodes: machines; torchrun tells this and devices by itself.
        precision: of features and convolutions; 16 needs CUDA.
        accelerator: auto takes CUDA where there is one.
        generator: weight file of a generator of any known tool, for encoder, stylemask and stylevideogan; without it
            that of the folder.
        perception: what stylemask sees faces with: the built-in nets for the built-in family, or the files of DECA,
            FLAME and ArcFace in the cache folder for real faces.
        preset: stylemask's settings: the paper's, those of the authors' code, or quick ones for the built-in family;
            without it quick for builtin and paper for deca.
        encoder: stylevideogan's weight file of an encoder (pSp, e4e, ReStyle) for the clip; the built-in one if not
            given.
        seed: of stylevideogan's training, 0 or more.
    """
    from stylereel.commands.train import train

    files = train(
        network,
        folder,
        start,
        scale,
        data,
        devices,
        nodes,
        precision,
        accelerator,
        generator,
        perception,
        preset,
        encoder,
        seed,
    )
    for path in files:
        print(path)


def evaluate(
    result: str,
    /,
    *,
    reference: str | None = None,
    measures: str | None = None,
    out: str | None = None,
    processes: int = 1,
    seed: int = 0,
    batch: int = 8,
    video_protocol: str = "windows",
) -> None:
    """Measure a clip, a folder of clips or a folder of pictures, and print the numbers as a Markdown table.

    Args:
        result: what to measure.
        reference: what to compare with: the original of each clip, or for Frechet distances any set.
        measures: names with commas between; without it, all that fit what is given.
        out: folder for results.json, table.md and plot.png.
        processes: how many share the work.
        seed: of the 95 % intervals and of random draws.
        batch: frames that go through a network at a time.
        video_protocol: which windows a Frechet video distance draws; docs/measures.md lists them.
    """
    from stylereel.commands.evaluate import evaluate, table

    names = [name.strip() for name in (measures or "").split(",") if name.strip()]
    scores, skipped = evaluate(
        result,
        reference,
        names,
        seed=seed,
        processes=processes,
        batch=batch,
        video_protocol=video_protocol,
        out=out,
    )
    if int(os.environ.get("RANK", 0)):  # in torchrun one process speaks for all
        return
    print(table(scores), end="")
    for name, reason in skipped.items():
        print(f"not measured: {name}: {reason}")
    if out is not None:
        print(f"{out}: results.json, table.md, plot.png")


def evaluate_exact(*, system: str = "stylemask", pairs: int = 64, seed: int = 0, out: str | None = None) -> None:
    """Measure a system against the world's true pictures of one person with another's motion.

    Args:
        system: which system's built-in weights.
        pairs: of a source person and a driver.
        seed: of the people and of the 95 % intervals.
        out: results.json to write.
    """
    from stylereel.commands.evaluate import evaluate_exact, table

    print(table(evaluate_exact(system, pairs, seed, out)), end="")


def reproduce(arguments: list[str]) -> None:
    """Repeat a paper's comparisons on the built-in family and say which of its claims hold."""
    from stylereel.commands.reproduce import list_studies, study

    parser = _parser("reproduce SYSTEM", f"There are studies of {', '.join(list_studies())}; SYSTEM --help tells more.")
    if arguments and arguments[0] in ("-h", "--help"):
        parser.print_help()
        return
    if not arguments or arguments[0].startswith("-"):
        raise ValueError(f"Name the system first: stylereel reproduce {' or '.join(list_studies())}.")
    name, *rest = arguments
    function = study(name)
    parser = _parser(f"reproduce {name}", (function.__doc__ or "").split("Args:")[0].strip())
    _add_flags(parser, function)
    for path in function(**_parse(parser, rest)):
        print(path)


def measures() -> None:
    """List the measures: what each compares, its protocol and its source."""
    from stylereel.metrics.registry import describe

    print(describe(), end="")


COMMANDS: dict[str, Callable[..., None]] = {
    "drive": drive,  # reads its arguments itself, since the system named first decides which there are
    "sample": sample,  # as drive
    "demo": demo,
    "systems": systems,
    "look": look,
    "invert": invert,
    "encode": encode,
    "decode": decode,
    "world sheet": world_sheet,
    "world portrait": world_portrait,
    "world clip": world_clip,
    "world dataset": world_dataset,
    "train": train,
    "eval exact": evaluate_exact,
    "eval": evaluate,
    "reproduce": reproduce,  # as drive
    "measures": measures,
    "weights info": weights_info,
    "weights convert": weights_convert,
    "weights list": weights_list,
    "weights get": weights_get,
    "weights verify": weights_verify,
}


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
            print("stylereel: this C library cannot be told to keep memory; going on without", file=sys.stderr)
        arguments = arguments[1:]
    if arguments in ([], ["-h"], ["--help"]):
        print(USAGE + "\n")
        for name, command in COMMANDS.items():
            print(f"  {name:<16} {(command.__doc__ or '').splitlines()[0]}")
        return
    if arguments == ["--version"]:
        from stylereel.core.version import __version__

        print(f"stylereel {__version__}")
        return
    name = next((name for name in COMMANDS if arguments[: len(name.split())] == name.split()), None)
    if name is None:
        raise ValueError(f"There is no command {arguments[0]}{_suggestion(arguments[0], list(COMMANDS))}")
    rest = arguments[len(name.split()) :]
    if command := {"drive": drive, "sample": sample, "reproduce": reproduce}.get(name):
        return command(rest)
    command = COMMANDS[name]
    parser = _parser(name, (command.__doc__ or "").split("Args:")[0].strip())
    _add_flags(parser, command)
    given = _parse(parser, rest)
    parameters = inspect.signature(command).parameters.values()
    positional = [given.pop(p.name) for p in parameters if p.kind is p.POSITIONAL_ONLY]
    positional += [each for p in parameters if p.kind is p.VAR_POSITIONAL for each in given.pop(p.name)]
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
    """A function's argument as a flag; positional ones have no dashes, a bool has --x and --no-x."""
    from jsonargparse import ActionYesNo

    required = parameter.default is parameter.empty
    flag = "--" + name.replace("_", "-")
    if parameter.kind is parameter.POSITIONAL_ONLY:
        parser.add_argument(name, type=parameter.annotation, help=text)
    elif parameter.kind is parameter.VAR_POSITIONAL:
        parser.add_argument(name, type=parameter.annotation, nargs="+", help=text)
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

    from stylereel.commands.drive import LOOP

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
