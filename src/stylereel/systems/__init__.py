"""The systems by name. One line here is all that a new system needs to be known everywhere."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from stylereel.core.system import Device, Spec, System, choose_device
from stylereel.zoo.families import BUILTIN, open_family

SPECS = {
    name: Spec(*(f"stylereel.systems.{name}.{part}" for part in parts))
    for name, *parts in [
        ("expressive", "system:Expressive", "training:recipe", "study:reproduce"),
        ("stylefacev", "system:StyleFaceV", "training:recipe", "study:reproduce"),
        ("stylemask", "system:StyleMask", "training:recipe", "study:reproduce"),
        ("styleheat", "system:StyleHEAT", "training:recipe", "study:reproduce"),
        ("stylevideogan", "system:StyleVideoGAN", "making:recipe", "study:reproduce"),
    ]
}


def resolve(place: str) -> Any:
    """What a Spec names as module:name."""
    module, attribute = place.split(":")
    return getattr(import_module(module), attribute)


def list_systems() -> list[str]:
    """Names of all systems."""
    return sorted(SPECS)


def load(name: str, *, family: str = BUILTIN, device: Device = "auto", **files: str) -> System:
    """The system `name`, ready for use.

    Args:
        name: name of the system.
        family: whose weights: builtin, another known family, or a TOML file (`stylereel.zoo.families`).
        device: where its networks run; auto takes a GPU if there is one.
        files: weight files by the names of its `from_files`, which override the family's.

    Raises:
        ValueError: no such system, family or device, or files it cannot use.
    """
    system, place, known = find(name), choose_device(device), file_options(name)
    taken = open_family(family).options(name, list(known)) | files
    if not taken:
        return system.builtin().to(place)
    needed = [option for option, parameter in known.items() if parameter.default is parameter.empty]
    if missing := [f"--{option}" for option in needed if option not in taken]:
        raise ValueError(f"Your own weights also need {' and '.join(missing)}; --help shows all flags.")
    return system.from_files(**taken).to(place)


def hint(name: str, known: Sequence[str]) -> str:
    """What to take instead of an unknown name: the nearest one, or the list."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"choose one of {', '.join(known)}."


def find(name: str) -> Any:
    """The class of a system. Raises ValueError, naming the nearest one, if there is none."""
    if name not in SPECS:
        raise ValueError(f"There is no system {name!r}; {hint(name, list_systems())}")
    return resolve(SPECS[name].system)


def options_of(verb: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The run-time options of a system's verb, or of a recipe: its keyword-only arguments, by name."""
    parameters = inspect.signature(verb, eval_str=True).parameters
    return {name: p for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


# What a user calls the verbs that have another name inside.
_SAID = {"extract": "moving a portrait by a clip", "follow": "following a camera"}
Flags = dict[str, tuple[inspect.Parameter, Callable[..., Any]]]  # each with the function whose docstring explains it


def verb_flags(system: System | type[System], verbs: Sequence[str]) -> Flags:
    """The run-time options of several verbs of a system or its class, each name once.

    Raises ValueError, naming the systems that have it, if the system lacks one of the verbs.
    """
    flags: Flags = {}
    for verb in verbs:
        function = getattr(system, verb, None)
        if not callable(function):
            able = ", ".join(name for name in list_systems() if hasattr(find(name), verb)) or "none"
            raise ValueError(f"{system.name} does not offer {_SAID.get(verb, verb)}; these systems do: {able}.")
        for name, parameter in options_of(function).items():
            shared = flags.setdefault(name, (parameter, function))
            assert shared[0].default == parameter.default, f"{system.name}: two defaults for {name}"
    return flags


def system_flags(name: str, verbs: Sequence[str]) -> dict[str, Flags]:
    """A system's own flags on the command line: the files it is loaded from, and the options of its verbs."""
    system = find(name)
    reader = getattr(system, "from_files", None)
    optional = {option: p.replace(default=None, annotation=str | None) for option, p in file_options(name).items()}
    return {
        "files": {option: (parameter, reader) for option, parameter in optional.items() if reader is not None},
        "options": verb_flags(system, verbs),
    }


def describe(verbs: Sequence[str]) -> str:
    """A sentence that names the systems with these verbs."""
    able = [name for name in list_systems() if all(hasattr(find(name), verb) for verb in verbs)]
    return f"The systems are {', '.join(able)}; SYSTEM --help also shows a system's own flags."


class Chosen(NamedTuple):
    """The options of a run: all by name, and those of each verb."""

    settings: dict[str, Any]
    verbs: dict[str, dict[str, Any]]


def choose(
    system: System, verbs: Sequence[str], given: Mapping[str, Any] | None, detector: str | None = None
) -> Chosen:
    """The options of several verbs: the given ones, and the defaults of the others.

    detector: the family's, where the system has that option and it is left to auto. Raises ValueError for an option
    that the system does not have.
    """
    known = {name: parameter for name, (parameter, _) in verb_flags(system, verbs).items()}
    if unknown := sorted((given or {}).keys() - known.keys()):
        raise ValueError(f"{system.name} has no option {unknown[0]}; it has {', '.join(sorted(known)) or 'none'}.")
    settings = {name: (given or {}).get(name, parameter.default) for name, parameter in known.items()}
    if detector is not None and settings.get("detector") == "auto":
        settings["detector"] = detector
    return Chosen(
        settings, {verb: {name: settings[name] for name in options_of(getattr(system, verb))} for verb in verbs}
    )


def file_options(name: str) -> dict[str, inspect.Parameter]:
    """The files that a system can be loaded from, by name; none for an unknown system."""
    if name not in SPECS:
        return {}
    reader = getattr(find(name), "from_files", None)
    return dict(inspect.signature(reader, eval_str=True).parameters) if reader else {}
