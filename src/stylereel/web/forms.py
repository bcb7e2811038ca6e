"""Forms as data: the fields of a command, made from its signature and docstring, and what their values mean as a call.

A tab shows one command. Which of its arguments are asked first is written here; every other argument, and all that a
system brings, appears by itself under "More options". A name below says what may be chosen for an argument; others
are numbers, choices, switches or text, by their annotations.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from stylereel import systems
from stylereel.commands import COMMANDS, signatures
from stylereel.commands.signatures import CLOCK
from stylereel.zoo.families import list_families

Kind = Literal[
    "person", "photo", "clip", "driver", "sound", "voice", "background", "file", "files", "corrections",
    "speech", "text", "words", "number", "switch", "choice", "recording",
]  # fmt: skip

# Arguments that take more than their annotation says.
PICKED: dict[str, Kind] = {
    "source": "person", "identity": "person", "driving": "driver", "clip": "clip", "audio": "sound", "sound": "sound",
    "background": "background", "files": "files", "text": "speech",
    "set_": "corrections", "curves": "file", "record": "recording",
}  # fmt: skip
# Of no use here: names of files of the page's own, the user's weight files, replacing what was there.
HIDDEN = {CLOCK, "files", "options", "overwrite", "device"}
UPLOADS = ("person", "photo", "clip", "driver", "sound", "voice", "background", "file", "files", "recording")
NEXT = ("system", "compare", "strength", "size", "out", "background", "paste_back")  # of the others, in this order
# What is asked of one visitor, at most.
LARGEST = {"size": 1080, "chunk": 32, "columns": 16, "rows": 16}
ENDING = re.compile(r"\.[a-z0-9]{2,11}\b")
NUMBERS = re.compile(r"-?\d+(?:\.\d+)?")
FRACTION = re.compile(r"\d+/\d+")


@dataclass(frozen=True)
class Tab:
    """A command on the page: what it is called there, and the arguments that are asked first.

    calls: what arguments are called in plain words. choices: what may be chosen for an argument here, and what that is
    called. fixed: arguments that the page settles. hidden: those that it leaves as they are.
    """

    command: str
    title: str
    lead: str
    button: str
    first: tuple[str, ...] = ()
    calls: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()


TABS = {
    "drive": Tab(
        "drive",
        "Drive",
        "Choose a person and a clip of a face: the person then does what the clip does.",
        "Make the video",
        ("source", "driving"),
        calls={
            "source": "Who is shown", "driving": "Who moves them", "compare": "Show everything side by side",
            "curves": "Curves of the motion", "slider": "Motion by hand", "edit": "What changes about them",
        },
    ),
    "live": Tab(
        "live",
        "Live",
        "Your camera, your voice or a sound moves a person while you watch. Nothing is kept unless you record it.",
        "Start",
        ("source", "camera", "audio", "lips", "record", "mirror"),
        calls={
            "source": "Who is shown", "camera": "What moves the head", "audio": "Sound", "record": "Record it",
            "lips": "Where there is a sound, the lips follow", "mirror": "As in a mirror",
        },
        choices={
            "camera": {"page": "My camera", "none": "It moves by itself"},
            "lips": {"sound": "The sound", "driving": "My face"},
        },
        fixed={"to": "page"},
        hidden=("camera_size", "fps", "loop", "duration", "port", "report", "family"),
    ),
    "say": Tab(
        "say",
        "Say",
        "Write a sentence or give a sound: the person says it.",
        "Say it",
        ("text", "audio", "source"),
        calls={
            "text": "What to say, in English", "audio": "Or a sound", "source": "Who says it",
            "driving": "A clip that moves the head",
        },
    ),
    "sample": Tab(
        "sample",
        "Sample",
        "A video from nothing but a number: another number, another performance.",
        "Make a video",
        ("seed", "model", "identity", "duration"),
        calls={"seed": "Number of the performance", "identity": "Who is shown", "duration": "How long, in seconds"},
    ),
    "encode": Tab(
        "encode",
        "Encode",
        "A talking face as a file of a few kilobytes, and what it looks like when it is played back.",
        "Encode the clip",
        ("clip", "rate", "sound_rate"),
        calls={
            "clip": "The clip", "rate": "Kilobits a second for the face", "source": "Who is shown (else who is in it)",
            "sound_rate": "Kilobits a second for the sound",
        },
    ),
    "look": Tab(
        "look",
        "Look",
        "See what is in a file: a clip as a sheet of frames, a motion as curves, a person as a picture.",
        "Look",
        ("files",),
        calls={"files": "Files"},
    ),
    "people": Tab(
        "identify",
        "People",
        "A photograph becomes a person who can be moved, in a minute; what was read wrong you correct by name.",
        "Find the likeness",
        ("source", "set_"),
        calls={"source": "A photograph", "set_": "Corrections"},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Field:
    """One argument as the page asks for it.

    group: "" for the command's own; "options" for the system's, which are handed over together.
    """

    name: str
    kind: Kind
    label: str
    help: str
    default: Any = None
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()  # what the choices are called, if not by themselves
    whole: bool = False  # of a number
    required: bool = False
    first: bool = False
    group: str = ""
    positional: bool = False


def tabs() -> dict[str, Tab]:
    """The tabs whose commands there are."""
    return {name: tab for name, tab in TABS.items() if tab.command in COMMANDS}


def subjects(command: str) -> list[str]:
    """The systems that a command takes first; none for a command without."""
    home = signatures.home(command)
    if not hasattr(home, "flags"):
        return []
    return [name for name in systems.list_systems() if _offers(home, name)]


def _offers(home: Any, system: str) -> bool:
    try:
        home.flags(system)
    except ValueError:
        return False
    return True


def fields(tab: Tab, subject: str | None = None) -> list[Field]:
    """What a tab asks, those it asks first in their order; with a subject also that system's own options.

    Raises:
        ValueError: the system does not offer what the command needs.
    """
    home, function = signatures.home(tab.command), signatures.function_of(tab.command)
    known = signatures.parameters_of(function)
    if hasattr(home, "flags"):
        known.pop(next(iter(known)))
    found = []
    for name, (parameter, documented) in known.items():
        hidden = name in HIDDEN or name in tab.hidden or name in tab.fixed
        if not hidden or parameter.kind is parameter.VAR_POSITIONAL:
            found.append(_field(tab, name, parameter, signatures.argument_texts(documented).get(name, "")))
    if subject is not None:
        for name, (parameter, documented) in home.flags(subject).get("options", {}).items():
            text = signatures.argument_texts(documented).get(name, "")
            found.append(_field(tab, name, parameter, text, group="options"))
    order = {name: place for place, name in enumerate((*tab.first, *NEXT))}
    return sorted(found, key=lambda each: order.get(each.name, len(order)))


def _field(tab: Tab, name: str, parameter: Any, text: str, group: str = "") -> Field:
    kind, default = parameter.annotation, parameter.default
    parts = [part for part in (get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,))]
    bare = [part for part in parts if part is not NoneType]
    required = default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
    given: dict[str, Any] = {
        "label": tab.calls.get(name) or name.strip("_").replace("_", " ").capitalize(),
        "help": text,
        "default": None if default is parameter.empty else default,
        "required": required,
        "first": name in tab.first or (required and name != "out"),
        "group": group,
        "positional": parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL),
    }

    def made(kind: Kind, **more: Any) -> Field:
        return Field(name, kind, **{**given, **more})

    if name == "out":
        # The endings that its help names first; the name itself is the page's business.
        endings = tuple(dict.fromkeys(ENDING.findall(text.partition(";")[0]))) or (".png",)
        return made("choice", label="File", choices=endings, default=endings[0])
    if name in tab.choices:
        return made("choice", choices=tuple(tab.choices[name]), words=tuple(tab.choices[name].values()))
    if name == "audio" and tab.command == "live":
        return made("voice")
    if name == "family":
        return made("choice", choices=tuple(list_families()))
    if name == "system":
        return made("choice", label="Method", choices=tuple(subjects("drive")))
    if name in PICKED and not (name == "source" and tab.command == "identify"):
        return made(PICKED[name])
    if get_origin(kind) is Literal:
        return made("choice", choices=tuple(map(str, get_args(kind))))
    if kind is bool:
        return made("switch")
    if bare in ([int], [float]):
        return made("number", whole=bare == [int])
    if name == "source":
        return made("photo")
    if Path in bare:
        return made("file")
    return made("words" if kind == tuple[str, ...] else "text")


@dataclass(frozen=True)
class Call:
    """A command with its values: everything that is needed to run it, or to write it down.

    Values are plain (text, numbers, switches, lists of text); files are names in the folder where it runs.
    """

    command: str
    subject: str | None
    positional: tuple[str, ...]
    keywords: dict[str, Any]
    options: dict[str, Any]

    def line(self) -> str:
        """The command line that does the same."""
        words = ["stylereel", *self.command.split(), *([self.subject] if self.subject else []), *self.positional]
        for name, value in {**self.keywords, **self.options}.items():
            flag = "--" + name.rstrip("_").replace("_", "-")
            if isinstance(value, bool):
                words.append(flag if value else flag.replace("--", "--no-", 1))
            elif isinstance(value, list | tuple):
                words += [word for each in value for word in (flag, str(each))]
            else:
                words += [flag, str(value)]
        return shlex.join(words)

    def python(self) -> str:
        """The Python that does the same."""
        function = signatures.function_of(self.command)
        given = [repr(word) for word in ((self.subject,) if self.subject else ()) + self.positional]
        keywords = dict(self.keywords) | ({"options": self.options} if self.options else {})
        given += [f"{name}={tuple(value) if isinstance(value, list) else value!r}" for name, value in keywords.items()]
        return f"from {function.__module__} import {function.__name__}\n\n{function.__name__}({', '.join(given)})"

    def lines(self, result: Any) -> list[str]:
        """What a terminal would show of a result."""
        shown = getattr(signatures.home(self.command), "lines", None)
        return [str(line) for line in (shown(result) if shown else [result])]

    def run(self, stages: Any) -> Any:
        """Run it here; what the command returns."""
        function = signatures.function_of(self.command)
        known = signatures.parameters_of(function)
        keywords = {name: tuple(value) if isinstance(value, list) else value for name, value in self.keywords.items()}
        if self.options:
            keywords["options"] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in self.options.items()
            }
        if CLOCK in known:
            keywords[CLOCK] = stages
        return function(*([self.subject] if self.subject else []), *self.positional, **keywords)


def call(tab: Tab, subject: str | None, values: Mapping[str, Any], stem: str = "result") -> Call:
    """The call that a filled form means; only what differs from the defaults is in it.

    Args:
        values: by the names of the fields: numbers, switches, text, names of files in the folder, None for nothing.
        stem: name of the result without its ending.

    Raises:
        ValueError: a value is missing, or is none that its field takes; one sentence.
    """
    if subject is not None and subject not in subjects(tab.command):
        raise ValueError(f"{tab.title} has no system {subject[:40]}; choose one of {', '.join(subjects(tab.command))}.")
    positional: list[str] = []
    groups: dict[str, dict[str, Any]] = {"": {}, "options": {}}
    for each in fields(tab, subject):
        value = _value(each, values.get(each.name))
        if each.name == "out":
            groups[""]["out"] = stem + (value or each.default)
        elif value is None or value == each.default or value == []:
            if each.required or (each.kind == "files" and not value):
                raise ValueError(f"{each.label} is missing; {MISSING.get(each.kind, 'fill it in')}.")
        elif each.positional:
            positional += value if isinstance(value, list) else [value]
        else:
            groups[each.group][each.name] = value
    return Call(tab.command, subject, tuple(positional), groups[""] | dict(tab.fixed), groups["options"])


MISSING = {
    "person": "choose a person, or give a photograph",
    "clip": "give a clip, or record one",
    "driver": "give a clip, or record one",
    "photo": "give a picture with a face",
    "file": "give a file",
    "files": "give one or more files",
}


def _value(each: Field, value: Any) -> Any:
    """What a field's value is for the command."""
    if value is None or value == "":
        return None
    if each.kind == "switch":
        return bool(value)
    if each.kind == "number":
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"{each.label} takes a number, not {str(value)[:40]}.") from None
        if each.whole and number != int(number):
            raise ValueError(f"{each.label} takes a whole number, not {number:g}.")
        if number > LARGEST.get(each.name, number):
            raise ValueError(f"{each.label} takes {LARGEST[each.name]} at most here, not {number:g}.")
        return int(number) if each.whole else number
    if each.kind == "choice":
        if str(value) not in each.choices:
            raise ValueError(f"{each.label} takes one of {', '.join(each.choices)}, not {str(value)[:40]}.")
        return str(value)
    if each.kind == "files":
        return [str(one) for one in value]
    if each.kind in ("words", "corrections"):  # a comma may be part of a word, but never its end
        words = value if isinstance(value, list | tuple) else re.split(r"[\s;]+", str(value))
        return [safe(word, each.label) for word in (str(word).strip(" ,") for word in words) if word]
    if each.kind in UPLOADS:
        return str(value)  # the names were given by the page
    return str(value) if each.kind == "speech" else safe(str(value).strip(), each.label)


def safe(text: str, label: str) -> str:
    """Text that cannot name a file outside the folder. Raises ValueError."""
    if FRACTION.fullmatch(text):
        return text
    if re.search(r"[/\\\0]", text) or text.startswith(("~", ".")) or len(text) > 500:
        raise ValueError(f"{label} takes no path here, such as {text[:40]}; upload the file instead.")
    return text
