"""The command `stylereel identify`: who is in a photograph, in words, and as an identity that can be driven."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from stylereel import systems
from stylereel.commands.likeness import Likeness, check_likeness, resembling
from stylereel.core.builtin import builtin
from stylereel.core.files import ensure_writable, require_file
from stylereel.core.record import Stages, command_line, sha256, write_record
from stylereel.core.render import portrait
from stylereel.core.runs import claim
from stylereel.core.system import Device
from stylereel.faces import backend, placement
from stylereel.invert.words import correct, table
from stylereel.media.pictures import read_picture, save_picture
from stylereel.media.sheet import BACKGROUND, side_by_side
from stylereel.systems.sources import Encodes, composed, read_photograph
from stylereel.world.factors import NAMES, neutral

SHOWN = 256  # pixels of the photograph and of the drawn person


def identify(
    source: str | Path,
    /,
    *,
    out: str | Path,
    set_: tuple[str, ...] = (),
    likeness: Likeness = "auto",
    face: str = "largest",
    detector: backend.Detector = "auto",
    device: Device = "auto",
    overwrite: bool = False,
    stages: Stages | None = None,
) -> dict[str, Any]:
    """Read who is in a photograph, say it in words, compose that person, and tune the built-in generator to the
    photograph.

    Args:
        source: an image with a face.
        out: the identity to write, .safetensors, which every command takes as a source; .png next to it shows the
            photograph, the drawn person and the tuned one, .json is the record with what was read.
        set_: corrects what was read: beard=0, hair=curls, glasses=round, age=old, hair_colour=blond, face=woman, or any
            factor of the world; may be given several times.
        likeness: how a photograph is shown: photo (the generator is tuned to it, which takes a minute or two, once),
            drawn (the person as the generator draws what was read, at once), or auto: photo.
        face: which of several faces: largest, left, a number from the left, or an image of the person.
        detector: what finds and reads faces; auto is the mesh where it is installed, else dlib.
        device: where the networks run; auto takes a GPU if there is one.
        overwrite: also replace files that an earlier run did not make; never the inputs.
        stages: clock to use, for watching the progress.

    Returns:
        The record, with what was `read`, by name.

    Raises:
        ValueError: no face, a correction that cannot be made, or a file that cannot be read or written (MediaError).
    """
    stages, source = stages or Stages(), require_file(source)
    target = ensure_writable(out, ".safetensors")
    files = [target, target.with_suffix(".png"), target.with_suffix(".json")]
    check_likeness(likeness)
    correct(neutral(), set_)  # a mistake is reported before anything is read
    claim(files, [source, face if Path(face).is_file() else None], overwrite)
    with stages("load"):
        image = read_picture(source)
        system = cast(Encodes, systems.load("stylemask", device=device))  # one of the built-in family
    with stages("find"):
        track = backend.track_picture(image, backend.open_backend(detector), face)
    with stages("read"):
        person = read_photograph(system.generator, image, track, set_)
        row = placement.align(track.landmarks[0])
        identity = composed(system, person, row)
    shown = {Path(source).stem: placement.cut(image, row, SHOWN, BACKGROUND), "drawn": portrait(system, identity)}
    with stages("tune"):
        identity = resembling(system, identity, image, likeness, stages)
    if identity.delta:
        shown["tuned"] = portrait(system, identity)
    identity.save(target)
    save_picture(files[1], side_by_side(list(shown.values()), list(shown)))
    settings = {"out": out, "set_": list(set_), "likeness": likeness, "face": face, "detector": detector}
    record = {
        "command": command_line("identify", str(source), settings),
        "settings": settings,
        "inputs": {"source": {"file": source, "sha256": sha256(source)}},
        "weights": {name: sha256(builtin(name)) for name in ("generator", "likeness")},
        "read": table(person),
        "factors": dict(zip(NAMES, person.values.tolist())),
        "seconds": {name: round(spent, 3) for name, spent in stages.seconds.items()},
        "files": files,
    }
    write_record(target, record)
    return record


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """What the terminal shows of a record."""
    width = max(map(len, record["read"]))
    for name, value in record["read"].items():
        yield f"{name.ljust(width)}  {value}"
    yield from map(str, record["files"])
