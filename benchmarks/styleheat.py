"""StyleHEAT by numbers: against exact truth beside StyleMask, the flow's error, seconds by stage, a sheet of its modes.

    python benchmarks/styleheat.py --exact 24 [--seed 77] [--folder runs]
    python benchmarks/styleheat.py --flow 64
    python benchmarks/styleheat.py --stages 24
    python benchmarks/styleheat.py --talk 2 [--system stylemask]
    python benchmarks/styleheat.py --sheet sheet.png [--driving CLIP]
    python benchmarks/styleheat.py --row row.png [--driving CLIP]

--exact: the measures of `stylereel eval exact` of StyleHEAT, of it without its calibration, and of StyleMask, on the
same pairs; and how far expression and pose are from what the face mesh, which was in no training of theirs, reads of
the true images. --folder: of weights to take instead of the built-in ones. --flow: end-point error against the
world's exact flow on held-out pairs, in pixels of 64, of no flow, of the mean head's and of the warper's. --stages:
milliseconds a frame of each stage, in chunks of 8, of processor time. --talk: minutes of world speech on a portrait
at 256 px: seconds of processor and of the clock for a second of video, memory after a quarter and at the end, and at
the beginning and the end of the clip by how many frames the lips are late and by how many milliseconds the sound is.
--row: frames for the README. --sheet: two people by one motion, its expression alone, curves, an edit that grows, and
the head moved in the frame.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy.io import wavfile

from stylereel import systems, world
from stylereel.commands.drive import drive
from stylereel.core.builtin import builtin
from stylereel.core.latents import FACE, Identity, Motion
from stylereel.core.render import portrait, render
from stylereel.core.system import System
from stylereel.edit.curves import Changes
from stylereel.faces.backend import open_backend, track_picture
from stylereel.faces.coefficients import motion_of
from stylereel.family.lips import with_lips
from stylereel.family.people import grouped_w
from stylereel.family.voice import listen, load_voice
from stylereel.media.pictures import save_picture
from stylereel.media.sheet import contact_sheet
from stylereel.media.sound import waveform
from stylereel.media.video import VideoReader
from stylereel.metrics import talking
from stylereel.metrics.exact import by_face_net, cross, draw_all, exact, motion_of_person
from stylereel.metrics.exact import pairs as exact_pairs
from stylereel.metrics.faces import motion_errors, mouth_opening
from stylereel.metrics.report import Number
from stylereel.metrics.sync import best_offset
from stylereel.recipes.voices import delay
from stylereel.systems.sources import own_motion
from stylereel.systems.styleheat.drivers import SENTENCES
from stylereel.systems.styleheat.files import CALIBRATION, KINDS, load_calibration, load_warper
from stylereel.systems.styleheat.flow import endpoint_error
from stylereel.systems.styleheat.guide import guides
from stylereel.systems.styleheat.pairs import draw_pairs
from stylereel.systems.styleheat.state import look, read_state
from stylereel.systems.styleheat.system import StyleHEAT
from stylereel.systems.styleheat.training import HELD_OUT
from stylereel.world.speech import RATE, mouth, speak

MOTION = world.MOTION_COLUMNS


def plain(system: StyleHEAT) -> StyleHEAT:
    """The system without its calibration."""
    return StyleHEAT(system.generator, system.encode, system.warper, None, files=system.weight_files)


def trained(folder: Path) -> StyleHEAT:
    """The system with the video networks of a training's folder."""
    files = [folder / f"{name}.safetensors" for name in (KINDS["video"], CALIBRATION)]
    whole = StyleHEAT.builtin()
    networks = load_warper(files[0]).eval(), load_calibration(files[1]).eval()
    return StyleHEAT(whole.generator, whole.encode, *networks, files=[*whole.weight_files[:2], *files])


def by_mesh(system: System, count: int, seed: int) -> dict[str, np.ndarray]:
    """Expression and pose [N] by the mesh, of results against the true images; pairs without a face are left out."""
    backend = open_backend("mesh")
    source, driver = exact_pairs(count, seed)
    found: dict[str, list[float]] = {"expression by the mesh": [], "pose by the mesh, degrees": []}
    for one, other in zip(source, driver, strict=True):
        (picture,), (truth,) = draw_all(one[None], 256), draw_all(cross(one[None], other[None]), 256)
        try:
            shown = next(iter(render(system, system.identify(picture), motion_of_person(other))))
            ours, theirs = (motion_of(track_picture(each, backend)).values for each in (shown, truth))
        except ValueError:
            continue
        apart = motion_errors(ours, theirs)
        for name, part in zip(found, ("expression", "pose"), strict=True):
            found[name].append(float(apart[part][0]))
    return {name: np.array(values) for name, values in found.items()}


def compare(pairs: int, seed: int, folder: Path | None) -> None:
    whole = StyleHEAT.builtin() if folder is None else trained(folder)
    made = {"StyleHEAT": whole, "StyleHEAT, calibration left out": plain(whole), "StyleMask": systems.load("stylemask")}
    scores = {name: exact(system, pairs, seed) for name, system in made.items()}
    print(f"| {pairs} pairs, seed {seed} | {' | '.join(scores)} | floor |\n|---|{'---|' * (len(scores) + 1)}")
    for rows in zip(*scores.values(), strict=True):
        cells = [f"{row.value:.4g} ({row.interval[0]:.3g} to {row.interval[1]:.3g})" for row in rows]
        floor = rows[0].parts.get("floor")
        print(f"| {rows[0].name} | {' | '.join(cells)} | {'' if floor is None else format(floor, '.3g')} |")
    meshes = {name: by_mesh(system, pairs, seed) for name, system in made.items()}
    for name in next(iter(meshes.values())):
        cells = [f"{Number.mean(each[name], seed)}, {len(each[name])} pairs" for each in meshes.values()]
        print(f"| {name} | {' | '.join(cells)} | |")


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


def talk(minutes: float, name: str) -> None:
    parts, track, now, index = [], [], 0, 0
    while now < 60 * minutes * RATE:
        said = speak(SENTENCES[index % len(SENTENCES)], 700 + index)
        track += [replace(each, start=each.start + now, end=each.end + now) for each in said.phonemes]
        parts.append(said.audio)
        now, index = now + len(said.audio), index + 1
    sound = np.concatenate(parts)
    with TemporaryDirectory() as folder:
        spoken, out = Path(folder) / "said.wav", Path(folder) / "talks.mp4"
        wavfile.write(spoken, RATE, (sound * 32767).astype(np.int16))
        memory: list[float] = []
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(1):
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                memory.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)

        watcher = threading.Thread(target=watch)
        watcher.start()
        begun, spent = time.perf_counter(), time.process_time()
        record = drive(name, source="29", audio=str(spoken), out=str(out))
        took, spent = time.perf_counter() - begun, time.process_time() - spent
        ended.set()
        watcher.join()
        seconds = record["frames"]["written"] / 25
        print(f"{seconds:.1f} s of {record['size'][0]} px by sound: {spent / seconds:.2f} s of processor and "
              f"{took / seconds:.2f} s of the clock a second, {torch.get_num_threads()} threads")  # fmt: skip
        print(f"memory: {memory[len(memory) // 4]:.0f} MiB after a quarter, {memory[-1]:.0f} MiB at the end")
        again, reach = waveform(out, RATE), 8 * RATE
        end = min(len(again), len(sound)) // RATE * RATE
        reader = VideoReader(out)
        pages, count = {"beginning": 0, "end": reader.num_frames - 200}, 200
        frames: dict[str, list[np.ndarray]] = {part: [] for part in pages}
        for number, frame in enumerate(reader):
            for part, first in pages.items():
                if first <= number < first + count:
                    frames[part].append(frame)
        for part, first in pages.items():
            times = (first + np.arange(count)) / 25
            exact = talking.opening(mouth(track, times))
            shown = mouth_opening(by_face_net(np.stack(frames[part]))[0])
            found = best_offset(shown, exact, 10)
            cut = slice(0, reach) if part == "beginning" else slice(end - reach, end)
            late = delay(sound[cut].astype(np.float32), again[cut])
            print(f"{part}: lips late by {found.frames} frames (r {found.correlation:.2f}), sound by "
                  f"{1000 * late / RATE:.1f} ms")  # fmt: skip


def row(path: Path, driving: str | None) -> None:
    """A source, and what a clip, an expression alone, a turn, an edit and a sound make of it."""
    system = StyleHEAT.builtin()
    identity = system.identify(29)
    shown: list[np.ndarray] = [portrait(system, identity)]
    labels = ["source"]
    values = world.natural_motion(8, 100, manner="expressions").astype(np.float32)
    clip = system.extract(driving) if driving else _motion(values)
    pair: list[tuple[str, dict[str, Any]]] = [("a clip", {}), ("its expression", {"parts": "expression"})]
    for label, options in pair:
        motion = clip.part(len(clip) // 3, len(clip) // 3 + 1)
        shown.append(next(iter(render(system, identity, motion, **options))))
        labels.append(label)
    for label, sliders, edits in (
        ("yaw=25", ["yaw=25"], []), ("smile=0.9", ["smile=0.9"], []), ("beard=3", [], ["beard=3"])
    ):  # fmt: skip
        changes = Changes.read(sliders=sliders, edits=edits)
        person = changes.taught(identity)
        still = changes.at_rest(0.04, None)
        shown.append(next(iter(render(system, person, changes.show_on(still, own_motion(system, identity), True)))))
        labels.append(label)
    said = speak("Maybe Bob will move my piano.", 3)
    calm = np.tile(own_motion(system, identity), (len(said.mouth), 1)).astype(np.float32)
    spoken = with_lips(_motion(calm), listen(load_voice(builtin("voice")), [said.audio]))
    apart, rounded = talking.opening(said.mouth), said.mouth[:, 1] + said.mouth[:, 4]
    middle = slice(8, len(apart) - 8)  # between the pauses
    for frame in (8 + int(apart[middle].argmin()), 8 + int(apart[middle].argmax()), int(rounded.argmax())):
        now = frame / 25 * RATE
        shown.append(next(iter(render(system, identity, spoken.part(frame, frame + 1)))))
        labels.append("sound: " + next(each.name for each in said.phonemes if each.start <= now < each.end))
    save_picture(path, contact_sheet(shown, len(shown), labels))


def _motion(values: np.ndarray) -> Motion:
    whole = np.tile(np.array([[0.5, 0.5, 1, 0]], np.float32), (len(values), 1))
    return Motion(values, FACE, tuple(world.MOTION), Fraction(25), whole)


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
    values = world.natural_motion(8, 100, manner="expressions").astype(np.float32)
    motion = system.extract(driving) if driving else _motion(values)
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
    parser.add_argument("--folder", type=Path, help="weights of a training, for --exact")
    parser.add_argument("--flow", type=int, metavar="PAIRS")
    parser.add_argument("--stages", type=int, metavar="FRAMES")
    parser.add_argument("--talk", type=float, metavar="MINUTES")
    parser.add_argument("--system", default="styleheat", help="what talks")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--row", type=Path)
    parser.add_argument("--driving")
    arguments = parser.parse_args()
    if arguments.exact:
        compare(arguments.exact, arguments.seed, arguments.folder)
    if arguments.flow:
        flow(arguments.flow)
    if arguments.stages:
        stages(arguments.stages)
    if arguments.talk:
        talk(arguments.talk, arguments.system)
    if arguments.row:
        row(arguments.row, arguments.driving)
    if arguments.sheet:
        sheet(arguments.sheet, arguments.driving)


if __name__ == "__main__":
    main()
