"""Families: whole sets of weight files that belong together, by one name.

A family is a TOML file. Its table `files` names what every system takes; a table named after a system adds what that
system alone takes, by the names of its file options. A bare name that the registry knows is looked for in the cache
folder; any other name is a path, relative to the TOML file.

    about = "StyleGAN2 FFHQ 1024 px with e4e"
    detector = "mesh"

    [files]
    generator = "stylegan2-ffhq-config-f.pt"
    encoder = "e4e_ffhq_encode.pt"

    [stylemask]
    masks = "mask_network_1024.pt"
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stylereel.core.files import MediaError, require_file
from stylereel.zoo.registry import ROWS, Row, cache_folder

BUILTIN = "builtin"  # the family that comes with the package: no files are named


@dataclass(frozen=True)
class Family:
    """A set of weight files.

    Attributes:
        name: what was asked for: a name, or the path of a TOML file.
        about: one line.
        detector: what finds and reads faces for it; None leaves the system's default.
        files: {"files" or a system: {option: path}}.
        rows: the registry's rows among the files, by path.
    """

    name: str
    about: str
    detector: str | None
    files: Mapping[str, Mapping[str, Path]]
    rows: Mapping[Path, Row]

    def of(self, system: str | None) -> dict[str, Path]:
        """All files of a system by option, those of every system included; those alone without a system."""
        return {**self.files.get("files", {}), **self.files.get(system or "files", {})}

    def options(self, system: str | None, known: list[str]) -> dict[str, str]:
        """The files that a system takes (`known` option names), all of which must be here.

        Raises ValueError that names those that are not, and the command or the page that gives them.
        """
        found = {option: path for option, path in self.of(system).items() if option in known}
        missing = [path for path in found.values() if not path.exists()]
        if missing:
            names = ", ".join(path.name for path in missing)
            fetched = all(path in self.rows for path in missing)
            whom = f" --for {system}" if system else ""
            command = f"stylereel weights get --family {self.name}{whom} fetches them"
            how = command if fetched else "put them there"
            raise ValueError(f"The family {self.name} lacks {names} in {missing[0].parent}; {how}.")
        return {option: str(path) for option, path in found.items()}


def list_families() -> list[str]:
    """Names of the families that the package knows."""
    return [BUILTIN, *sorted(path.stem for path in Path(__file__).parent.glob("*.toml"))]


def open_family(name: str) -> Family:
    """The family of a name or of a TOML file.

    Raises:
        ValueError: there is no such family, or the file is not one.
    """
    if name == BUILTIN:
        return Family(name, "what comes with the package", None, {}, {})
    own = Path(__file__).parent / f"{name}.toml"
    if not own.exists() and not name.endswith(".toml"):
        raise ValueError(f"There is no family {name}; choose one of {', '.join(list_families())}, or give a TOML file.")
    path = own if own.exists() else require_file(name)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MediaError(f"{path} is not a TOML file ({error}).") from error
    return _family(name, path, content)


def _family(name: str, path: Path, content: Mapping[str, object]) -> Family:
    known = {row.name: row for row in ROWS}
    files: dict[str, dict[str, Path]] = {}
    rows: dict[Path, Row] = {}
    texts = {"about": "", "detector": ""}
    for key, value in content.items():
        if key in texts and isinstance(value, str):
            texts[key] = value
        elif isinstance(value, dict) and all(isinstance(each, str) for each in value.values()):
            for option, file in value.items():
                place = cache_folder() / file if file in known else path.parent / file
                files.setdefault(key, {})[option] = place
                if file in known:
                    rows[place] = known[file]
        else:
            raise ValueError(f"{path}: {key} is neither about, detector nor a table of file names.")
    if not files:
        raise ValueError(f"{path} names no files; give a table [files] with a generator.")
    return Family(name, texts["about"], texts["detector"] or None, files, rows)
