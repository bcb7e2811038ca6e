"""How much the person shown is like the one in the photograph: `python benchmarks/faces.py --likeness FOLDER...`.

Attributes are those of the factors that are drawn, against labels written down by hand (likeness.toml). Colours are
measured in the photograph in white light and in the drawn image, the same way, and compared by CIEDE2000. The shape of
the face is that of MediaPipe's mesh, which reads both images: all points but those of mouth, lids and irises, turned to
the front, scaled by the eyes. Then the generator is tuned to each photograph, and StyleMask moves the person to
another pose and expression than the photograph's; dlib's embedding, which is in no loss, and the mesh compare that with
the photographs. Sheets: photograph, drawn person, tuned, and moved; and photographs and moved faces alone in shuffled
order, to be matched by eye by someone who has not seen the first, with the key in likeness-key.txt.
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
from stylereel.commands.likeness import resembling
from stylereel.core import render
from stylereel.core.latents import Identity
from stylereel.core.render import pictures as shown
from stylereel.core.render import portrait
from stylereel.core.system import Frames
from stylereel.faces import backend, mesh, placement
from stylereel.faces.expression import head_pose
from stylereel.family.nets import PARSED
from stylereel.family.people import draw_portraits
from stylereel.invert.person import Person, painter
from stylereel.invert.regions import measure
from stylereel.invert.words import age_of, has_fringe, is_tied, length_of, womanly
from stylereel.media.colour import delta_e, lab
from stylereel.media.pictures import FORMATS, read_picture, save_picture
from stylereel.media.sheet import contact_sheet
from stylereel.media.video import VideoReader
from stylereel.recipes.likeness import repaint
from stylereel.recipes.perception import disturb
from stylereel.systems.sources import composed, read_photograph
from stylereel.systems.stylemask.system import StyleMask
from stylereel.world.factors import INDEX, LATENT_DIM, MOTION, MOTION_COLUMNS
from stylereel.world.shading import REGIONS

LABELS = Path(__file__).with_name("likeness.toml")
HELD_OUT = 7_000_000  # seeds of people from here on are not used in training
SEED = 21  # of the shuffled sheet
FACE = slice(64, 208)  # of 256 pixels, across and down: what the shuffled sheet shows
NOT_SHAPE = 61, 291, 0, 17, 13, 14, 37, 267, 84, 314, 39, 269, 181, 405, 40, 270, 91, 321, 78, 308, 159, 145, 386, 374


class Result(NamedTuple):
    """photo, drawn, tuned and moved (the tuned person in another motion): uint8 [256, 256, 3]; of these the shapes,
    flat arrays, and of photo, moved drawn and moved dlib's embeddings (None where no face was found)."""

    name: str
    photo: np.ndarray
    drawn: np.ndarray
    tuned: np.ndarray
    moved: np.ndarray
    person: Person
    shapes: tuple[np.ndarray | None, ...]
    embeddings: tuple[np.ndarray | None, ...]
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
    system = StyleMask.builtin()
    show, reader, found = painter(system.generator), mesh.MeshBackend(), []
    for name, image in pictures(folders):
        track = backend.track_picture(image, reader)
        row = placement.align(track.landmarks[0])
        person = read_photograph(system.generator, image, track)
        drawn, exact = show(person.values), world.draw(world.align(person.values), 256)
        classes = np.array([PARSED.index("ear" if part == "earring" else part) for part in REGIONS])
        colours = measure(drawn, exact.landmarks, classes[exact.regions[2::4, 2::4]])
        identity = composed(system, person, row)
        tuned = resembling(system, identity, image, "photo")
        moved = [move(system, each) for each in (identity, tuned)]
        photo, both = placement.cut(image, row, 256), (portrait(system, tuned), moved[1])
        shapes = tuple(shape(each, reader) for each in (image, drawn, *both))
        seen = tuple(embedding(each, reader) for each in (photo, *moved))
        found.append(Result(name, photo, drawn, *both, person, shapes, seen, colours))
        print(f"  {name}", flush=True)
    return found


def embedding(image: np.ndarray, reader: backend.FaceBackend) -> np.ndarray | None:
    """dlib's embedding of the largest face."""
    try:
        return reader.embedding(image, backend.track_picture(image, reader).landmarks[0])
    except ValueError:
        return None


def move(system: StyleMask, identity: Identity) -> np.ndarray:
    """An identity in another pose and with another expression than its own."""
    own, kept = identity.tensors["factors"].numpy()[MOTION_COLUMNS], render.tuned(system, identity)
    motion = np.zeros((1, len(MOTION)), np.float32)
    # Turned to the other side, and smiling unless it does.
    moved = {"yaw": -16 if own[MOTION.index("yaw")] > 0 else 16, "pitch": 4, "jaw": 0.3, "scale": 1}
    moved["smile"] = 0.6 if own[MOTION.index("smile")] < 0.3 else -0.2
    motion[0, [MOTION.index(name) for name in moved]] = list(moved.values())
    with torch.inference_mode():
        frames = Frames(s=kept.mix(identity.w[None], kept.target_codes(motion)))
        return shown(frames.synthesize(kept.generator))[0]


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
    for title, side in (("drawn", 1), ("tuned", 2), ("tuned and moved", 3)):
        photos, results = known([each.shapes for each in found], side)
        nearest(f"shape, {title}", photos, results)
        nearest(f"shape less its mean, {title}", photos - photos.mean(0), results - results.mean(0))
    for title, side in (("drawn and moved", 1), ("tuned and moved", 2)):
        photos, results = known([each.embeddings for each in found], side)
        nearest(f"dlib's embedding, {title}", photos, results)
        own = np.linalg.norm(photos - results, axis=1)
        others = [np.linalg.norm(a - b) for i, a in enumerate(photos) for b in photos[:i]]
        print(f"  to the own photograph {np.median(own):.2f} in the median, under {backend.SAME_PERSON} for "
              f"{(own < backend.SAME_PERSON).sum()} of {len(own)}; two others {np.median(others):.2f}")  # fmt: skip


def known(sides: list[tuple[np.ndarray | None, ...]], side: int) -> tuple[np.ndarray, np.ndarray]:
    """The first and another of what was measured of each result, for those that have both."""
    both = [(each[0], each[side]) for each in sides if each[0] is not None and each[side] is not None]
    first, second = zip(*both)
    return np.stack(first), np.stack(second)


def nearest(title: str, photos: np.ndarray, results: np.ndarray) -> None:
    """Print for how many photographs [N, D] the own one of the results [N, D] is the nearest."""
    apart = np.linalg.norm(photos[:, None] - results[None], axis=2)
    rank = (apart < np.diag(apart)[:, None]).sum(1)
    print(f"{title}: the own result nearest for {(rank == 0).sum()} of {len(photos)} photographs, "
          f"in the first three for {(rank < 3).sum()} (by chance 1 and 3)")  # fmt: skip


def sheets(found: list[Result], out: Path) -> None:
    """Write likeness.png (rows), likeness-shuffled.png and likeness-key.txt to a folder."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [np.hstack([each.photo, each.drawn, each.tuned, each.moved]) for each in found]
    save_picture(out / "likeness.png", contact_sheet(rows, 2, [each.name for each in found]))
    random = np.random.default_rng(SEED)
    left, right = random.permutation(len(found)), random.permutation(len(found))
    small = [[np.asarray(Image.fromarray(each[FACE, FACE]).resize((192, 192))) for each in side]
             for side in ([found[i].photo for i in left], [found[i].moved for i in right])]  # fmt: skip
    columns = -(-len(found) // 2)
    names = [str(i + 1) for i in range(len(found))], [chr(65 + i) for i in range(len(found))]
    rows = [contact_sheet(list(side), columns, list(name)) for side, name in zip(small, names)]
    save_picture(out / "likeness-shuffled.png", np.vstack(rows))
    key = [f"{1 + int(np.flatnonzero(left == i)[0])} = {chr(65 + int(np.flatnonzero(right == i)[0]))}  {each.name}"
           for i, each in enumerate(found)]  # fmt: skip
    (out / "likeness-key.txt").write_text("\n".join(sorted(key)) + "\n", encoding="utf-8")


def world_sheet(out: Path, people: int = 6) -> None:
    """Write likeness-world.png: held-out people of the world spoiled like photographs, as read, tuned, and moved."""
    system, reader, rows = StyleMask.builtin(), mesh.MeshBackend(), []
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
        tuned = resembling(system, identity, photo, "photo")
        shots = [portrait(system, identity), portrait(system, tuned), move(system, tuned)]
        rows.append(np.hstack([photo, *shots]))
    save_picture(out / "likeness-world.png", contact_sheet(rows, 2, ["photograph, drawn, tuned, moved"] * len(rows)))


def likeness(folders: list[str], out: str) -> None:
    """Read, draw, compare, and write the sheets."""
    found = results(folders)
    compare(found)
    sheets(found, Path(out))
    world_sheet(Path(out))
