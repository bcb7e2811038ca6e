"""StyleHEAT by numbers: against exact truth beside StyleMask, the flow's error, seconds by stage, a sheet of its modes.

    python benchmarks/styleheat.py --exact 24 [--seed 77]
    python benchmarks/styleheat.py --flow 64
    python benchmarks/styleheat.py --stages 24
    python benchmarks/styleheat.py --sheet sheet.png [--driving CLIP]

--exact: the measures of `stylereel eval exact` of StyleHEAT, of it without its calibration, and of StyleMask, on the
same pairs. --flow: end-point error against the world's exact flow on held-out pairs, in pixels of 64, of no flow, of
the mean head's and of the warper's. --stages: milliseconds a frame of each stage, in chunks of 8, of processor time.
--sheet: two people by one motion, its expression alone, curves, an edit that grows, and the head moved in the frame.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stylereel import systems, world
from stylereel.core.latents import Identity, Motion
from stylereel.core.render import portrait, render
from stylereel.edit.curves import Changes
from stylereel.family.people import grouped_w
from stylereel.media.pictures import save_picture
from stylereel.media.sheet import contact_sheet
from stylereel.metrics.exact import exact
from stylereel.systems.sources import own_motion
from stylereel.systems.styleheat.flow import endpoint_error
from stylereel.systems.styleheat.guide import guides
from stylereel.systems.styleheat.pairs import draw_pairs
from stylereel.systems.styleheat.state import look, read_state
from stylereel.systems.styleheat.system import StyleHEAT
from stylereel.systems.styleheat.training import HELD_OUT

MOTION = world.MOTION_COLUMNS


def plain(system: StyleHEAT) -> StyleHEAT:
    """The system without its calibration."""
    return StyleHEAT(system.generator, system.encode, system.warper, None, files=system.weight_files)


def compare(pairs: int, seed: int) -> None:
    whole = StyleHEAT.builtin()
    made = {"StyleHEAT": whole, "StyleHEAT, calibration left out": plain(whole), "StyleMask": systems.load("stylemask")}
    scores = {name: exact(system, pairs, seed) for name, system in made.items()}
    print(f"| {pairs} pairs, seed {seed} | {' | '.join(scores)} | floor |\n|---|{'---|' * (len(scores) + 1)}")
    for rows in zip(*scores.values(), strict=True):
        cells = [f"{row.value:.4g} ({row.interval[0]:.3g} to {row.interval[1]:.3g})" for row in rows]
        floor = rows[0].parts.get("floor")
        print(f"| {rows[0].name} | {' | '.join(cells)} | {'' if floor is None else format(floor, '.3g')} |")


@torch.inference_mode()
def flow(count: int) -> None:
    system, pairs = StyleHEAT.builtin(), draw_pairs(0, count, seed=HELD_OUT)
    found = []
    for start in range(0, count, 8):
        cut = slice(start, start + 8)
        w = grouped_w(system.generator, pairs.source[cut])
        image = look(system.generator, read_state(system.generator, w), w, system.warper.config.size)
        found.append(system.warper(image, pairs.window[cut], pairs.guide[cut]).flow)
    for name, each in {
        "no flow": 0 * pairs.flow, "the mean head's": pairs.guide[:, 6:8], "the warper's": torch.cat(found)
    }.items():  # fmt: skip
        print(f"{name}: {float(endpoint_error(each, pairs.flow, pairs.seen)):.3f} px of 64")


@torch.inference_mode()
def stages(frames: int) -> None:
    system = StyleHEAT.builtin()
    identity = system.identify(29)
    motion = world.natural_motion(3, frames)
    own = own_motion(system, identity)
    state = read_state(system.generator, identity.w[None])
    image = look(system.generator, state, identity.w[None], system.warper.config.size)
    window = torch.zeros(8, system.warper.config.inputs, 27)
    led = guides(own, motion[:8])
    moved = system.warper(image.expand(8, -1, -1, -1), window, led)
    joined = system.warper.warp(state.joined().expand(8, -1, -1, -1), moved.flow)
    assert system.calibration is not None
    start = ("b64.conv0", state.features.expand(8, -1, -1, -1), state.so_far.expand(8, -1, -1, -1))
    w = identity.w.expand(8, -1, -1)
    parts: dict[str, Callable[[], Any]] = {
        "the mean head's guide": lambda: guides(own, motion[:8]),
        "warper": lambda: system.warper(image.expand(8, -1, -1, -1), window, led),
        "warping": lambda: system.warper.warp(state.joined().expand(8, -1, -1, -1), moved.flow),
        "calibration": lambda: system.calibration(joined, moved.descriptor, led).apply(joined),  # type: ignore[misc]
        "generator from 64 px on, 32": lambda: system.generator.synthesize(w, start=start),
        "generator from 64 px on, bf16": lambda: system.generator.synthesize(w, start=start, dtype=torch.bfloat16),
        "StyleMask's generator, whole, bf16": lambda: system.generator.synthesize(w, dtype=torch.bfloat16),
    }
    for name, part in parts.items():
        part()
        times = []
        for _ in range(5):
            begin = time.process_time()
            part()
            times.append(time.process_time() - begin)
        print(f"{name}: {1000 * float(np.median(times)) / 8:.1f} ms a frame")


def sheet(path: Path, driving: str | None) -> None:
    system, columns = StyleHEAT.builtin(), 7
    rows: list[np.ndarray] = []
    labels: list[str] = []

    def add(name: str, identity: Identity, motion: Motion, **options: Any) -> None:
        picked = np.linspace(0, len(motion) - 1, columns - 1).round().astype(int)
        films = render(system, identity, motion, chunk=1, **options)
        rows.extend([portrait(system, identity), *(next(films.start_at(int(i))) for i in picked)])
        labels.extend([name, *[""] * (columns - 1)])

    people = [system.identify(seed) for seed in (29, 5, 3)]
    still = Changes.read(sliders=["yaw=0"]).at_rest(1.0, Fraction(25))
    natural = world.natural_motion(8, 100, manner="expressions")
    clip = system.extract(driving) if driving else None
    values = natural.astype(np.float32)
    motion = clip or Motion(
        values, system.motion_kinds[0], still.names, Fraction(25), still.placement[:1].repeat(100, 0)
    )
    add("a motion", people[0], motion)
    add("another person", people[1], motion)
    add("expression alone", people[1], motion, parts="expression")
    for name, person, given, edits in (
        ("curves", people[2], ["yaw=0:-30,1:30", "jaw=0:0,0.5:0.8,1:0"], []),
        ("a beard that grows", people[1], ["yaw=0:-20,1:20"], ["beard=linear 0:0,1:3"]),
        ("moved in the frame", people[0], ["shift_x=0:-0.08,1:0.08", "scale=0:0.85,1:1.15"], []),
    ):
        changes = Changes.read(sliders=given, edits=edits)
        identity = changes.taught(person)
        add(name, identity, changes.show_on(changes.at_rest(1.0, None), own_motion(system, identity), True))
    half = [np.reshape(row, (128, 2, 128, 2, 3)).mean((1, 3)).round().astype(np.uint8) for row in rows]
    save_picture(path, contact_sheet(half, columns, labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--exact", type=int, metavar="PAIRS")
    parser.add_argument("--seed", type=int, default=77, help="random seed of the pairs")
    parser.add_argument("--flow", type=int, metavar="PAIRS")
    parser.add_argument("--stages", type=int, metavar="FRAMES")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--driving")
    arguments = parser.parse_args()
    if arguments.exact:
        compare(arguments.exact, arguments.seed)
    if arguments.flow:
        flow(arguments.flow)
    if arguments.stages:
        stages(arguments.stages)
    if arguments.sheet:
        sheet(arguments.sheet, arguments.driving)


if __name__ == "__main__":
    main()
