"""How much the drawn person is like the one in the photograph: `python benchmarks/faces.py --likeness FOLDER...`.

Attributes are those of the factors that are drawn, against labels written down by hand (likeness.toml). Colours are
measured in the photograph in white light and in the drawn image, the same way, and compared by CIEDE2000. The shape of
the face is that of MediaPipe's mesh, which reads both images: all points but those of mouth, lids and irises, turned to
the front, scaled by the eyes. Sheets: photograph and result side by side; and both in shuffled order, to be matched by
eye by someone who has not seen the first, with the key in likeness-key.txt.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from stylereel import world
from stylereel.core.builtin import builtin
from stylereel.core.render import pictures as shown
from stylereel.core.render import portrait
from stylereel.core.system import Frames
from stylereel.faces import backend, mesh, placement
from stylereel.faces.expression import head_pose
from stylereel.family.likeness import load_likeness
from stylereel.family.nets import PARSED
from stylereel.family.people import draw_portraits
from stylereel.generator import StyleGAN2
from stylereel.invert.person import Person, painter, read
from stylereel.invert.regions import measure
from stylereel.invert.words import age_of, has_fringe, is_tied, length_of, womanly
from stylereel.media.colour import delta_e, lab
from stylereel.media.pictures import FORMATS, read_picture, save_picture
from stylereel.media.sheet import contact_sheet
from stylereel.media.video import VideoReader
from stylereel.recipes.likeness import repaint
from stylereel.recipes.perception import disturb
from stylereel.systems.sources import composed, face_motion, read_photograph
from stylereel.systems.stylemask.system import StyleMask
from stylereel.world.factors import INDEX, LATENT_DIM, MOTION
from stylereel.world.shading import REGIONS

LABELS = Path(__file__).with_name("likeness.toml")
HELD_OUT = 7_000_000  # seeds of people from here on are not used in training
SEED = 20  # of the shuffled sheet
NOT_SHAPE = 61, 291, 0, 17, 13, 14, 37, 267, 84, 314, 39, 269, 181, 405, 40, 270, 91, 321, 78, 308, 159, 145, 386, 374


class Result(NamedTuple):
    """photo and drawn: uint8 [256, 256, 3]; of their faces the shapes, flat arrays (None where no face was found)."""

    name: str
    photo: np.ndarray
    drawn: np.ndarray
    person: Person
    shapes: tuple[np.ndarray | None, np.ndarray | None]
    colours: dict[str, np.ndarray]


def pictures(folders: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """The images of folders, and the first frames of their clips, of those that have labels."""
    labels = tomllib.loads(LABELS.read_text(encoding="utf-8"))
    for folder in folders:
        for path in sorted(Path(folder).iterdir()):
            if path.stem in labels and path.suffix.lower() in (*FORMATS, ".mp4"):
                yield path.stem, read_picture(path) if path.suffix in FORMATS else next(iter(VideoReader(path)))


def shape(image: np.ndarray, reader: backend.FaceBackend) -> np.ndarray | None:
    """The shape of the largest face, without what expressions move."""
    try:
        points = backend.track_picture(image, reader).points
    except ValueError:
        return None
    assert points is not None
    front = np.delete(head_pose(points).frontal[0, :468, :2], NOT_SHAPE, axis=0)
    corners = head_pose(points).frontal[0, [33, 263], :2]
    return ((front - corners.mean(0)) / np.linalg.norm(corners[1] - corners[0])).ravel()


def results(folders: list[str]) -> list[Result]:
    """Every picture read and drawn."""
    net, show = load_likeness(builtin("likeness")), painter(StyleGAN2.load(builtin("generator")).eval())
    reader, found = mesh.MeshBackend(), []
    for name, image in pictures(folders):
        track = backend.track_picture(image, reader)
        row = placement.align(track.landmarks[0])
        person = read(net, show, image, track.landmarks[0], row, face_motion(track).values[0])
        drawn, exact = show(person.values), world.draw(world.align(person.values), 256)
        classes = np.array([PARSED.index("ear" if part == "earring" else part) for part in REGIONS])
        colours = measure(drawn, exact.landmarks, classes[exact.regions[2::4, 2::4]])
        shapes = shape(image, reader), shape(drawn, reader)
        found.append(Result(name, placement.cut(image, row, 256), drawn, person, shapes, colours))
        print(f"  {name}", flush=True)
    return found


def attributes(person: Person) -> dict[str, object]:
    """What is drawn, in the words of the labels."""
    v = person.values
    return {
        "glasses": person["glasses"] > 0.5,
        "beard": person["beard"] > 0.3,
        "moustache": person["moustache"] > 0.3,
        "hat": person["hat"] > 0.64,
        "length": length_of(v),
        "fringe": has_fringe(v),
        "tied": is_tied(v),
        "age": age_of(v),
        "face": "woman" if womanly(v) > 0 else "man",
    }


def compare(found: list[Result]) -> None:
    """Print what is right, the differences of colour, and whose shape is nearest."""
    labels = tomllib.loads(LABELS.read_text(encoding="utf-8"))
    wrong: dict[str, list[str]] = {}
    asked: dict[str, int] = {}
    for each in found:
        label = labels[each.name]
        for name, value in attributes(each.person).items():
            if name == "face" and "face" not in label:
                continue
            asked[name] = asked.get(name, 0) + 1
            if value != label.get(name, False):
                wrong.setdefault(name, []).append(f"{each.name} ({value})")
    total, right = sum(asked.values()), sum(asked.values()) - sum(map(len, wrong.values()))
    print(f"\nattributes right: {right} of {total}, {100 * right / total:.0f} %")
    for name, count in asked.items():
        missed = wrong.get(name, [])
        print(f"| {name} | {count - len(missed)} of {count} | {', '.join(missed)} |")
    for part in ("skin", "hair", "clothes", "background"):
        apart = {}
        for each in found:
            if part in each.person.colours and part in each.colours:
                pair = [lab(each.person.colours[part]), lab(each.colours[part])]
                if labels[each.name].get("gray"):
                    pair = [np.array([one[0], 0.0, 0.0]) for one in pair]
                apart[each.name] = float(delta_e(*pair))
        worst, values = max(apart, key=lambda name: apart[name]), np.array(list(apart.values()))
        near = f"within 12: {(values <= 12).sum()} of {len(values)}"
        print(f"{part}: CIEDE2000 median {np.median(values):.1f}, {near}, worst {values.max():.0f} ({worst})")
    seen = [each for each in found if each.shapes[0] is not None and each.shapes[1] is not None]
    photos, drawn = (np.stack([np.asarray(each.shapes[side]) for each in seen]) for side in (0, 1))
    for title, first, second in (
        ("as they are", photos, drawn),
        ("less the mean of the photographs, and of the results", photos - photos.mean(0), drawn - drawn.mean(0)),
    ):
        apart = np.linalg.norm(first[:, None] - second[None], axis=2)
        rank = (apart < np.diag(apart)[:, None]).sum(1)
        print(f"shape, {title}: the own result nearest for {(rank == 0).sum()} of {len(seen)} photographs, "
              f"in the first three for {(rank < 3).sum()} (by chance 1 and 3)")  # fmt: skip


def sheets(found: list[Result], out: Path) -> None:
    """Write likeness.png (pairs), likeness-shuffled.png and likeness-key.txt to a folder."""
    out.mkdir(parents=True, exist_ok=True)
    pairs = [np.hstack([each.photo, each.drawn]) for each in found]
    save_picture(out / "likeness.png", contact_sheet(pairs, 3, [each.name for each in found]))
    random = np.random.default_rng(SEED)
    left, right = random.permutation(len(found)), random.permutation(len(found))
    small = [[np.asarray(Image.fromarray(each).resize((192, 192))) for each in side]
             for side in ([found[i].photo for i in left], [found[i].drawn for i in right])]  # fmt: skip
    columns = -(-len(found) // 2)
    names = [str(i + 1) for i in range(len(found))], [chr(65 + i) for i in range(len(found))]
    rows = [contact_sheet(list(side), columns, list(name)) for side, name in zip(small, names)]
    save_picture(out / "likeness-shuffled.png", np.vstack(rows))
    key = [f"{1 + int(np.flatnonzero(left == i)[0])} = {chr(65 + int(np.flatnonzero(right == i)[0]))}  {each.name}"
           for i, each in enumerate(found)]  # fmt: skip
    (out / "likeness-key.txt").write_text("\n".join(sorted(key)) + "\n", encoding="utf-8")


def world_sheet(out: Path, people: int = 6) -> None:
    """Write likeness-world.png: held-out people of the world spoiled like photographs, as read, and driven."""
    system, reader, rows = StyleMask.builtin(), mesh.MeshBackend(), []
    motion = np.zeros((1, len(MOTION)), np.float32)
    motion[0, [MOTION.index(name) for name in ("yaw", "pitch", "jaw", "smile")]] = -18, 4, 0.35, 0.5
    for seed in range(HELD_OUT, HELD_OUT + people):
        values = world.person(seed)
        values[INDEX["yaw"]] *= 0.4
        z = torch.zeros(1, 4, LATENT_DIM).numpy()
        batch = draw_portraits(z, world.align(values[None]), 256)
        image = ((disturb(repaint(batch.images, batch.regions, (seed,)), (seed, 1), most=0.4) + 1) * 127.5)[0]
        photo = image.round().byte().permute(1, 2, 0).numpy()
        track = backend.track_picture(photo, reader)
        row = placement.align(track.landmarks[0])
        identity = composed(system, read_photograph(system.generator, photo, track), row)
        with torch.inference_mode():
            frames = Frames(s=system.mix(identity.w[None], system.target_codes(motion)))
            driven = shown(frames.synthesize(system.generator))[0]
        rows.append(np.hstack([photo, portrait(system, identity), driven]))
    save_picture(out / "likeness-world.png", contact_sheet(rows, 2, ["spoiled, drawn, driven"] * len(rows)))


def likeness(folders: list[str], out: str) -> None:
    """Read, draw, compare, and write the sheets."""
    found = results(folders)
    compare(found)
    sheets(found, Path(out))
    world_sheet(Path(out))
