"""StyleFaceV against exact truth: what its codes hold, what it shows, and how its sampled motion moves.

    python benchmarks/stylefacev.py [--weights FILE] [--only codes,pictures,motion,place,speed] [--sheet FILE.png]
                                    [--table FILE.png]

All people are held out from every training. codes: a linear probe for the person on the pose code (100 people, 8
frames each to learn, 12 to tell), and the R2 of the pose by a linear probe on the appearance code (of other people than
the probe learned). pictures: the appearance of one frame with the pose of another person's, against the world's exact
image, next to the reconstruction of the frame itself, to the exact w, and to the world's image of the frame as it was;
and identity over the frames of samples, as a share of that of the world's own frames of one person. motion: forty
samples of a minute against as many clips, and one of ten minutes. place: how well roll and shift of heads in
clips survive, and equivariance. speed: by stage. --sheet draws swaps, --table an appearance a row and a pose a column.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stylereel import world
from stylereel.core.builtin import builtin
from stylereel.core.latents import Motion
from stylereel.core.render import pictures, render
from stylereel.faces import placement
from stylereel.family.nets import load_face
from stylereel.generator import StyleGAN3, image_transform
from stylereel.media.pictures import save_picture
from stylereel.media.sheet import contact_sheet
from stylereel.metrics.equivariance import disk, move
from stylereel.metrics.exact import by_face_net
from stylereel.metrics.likeness import builtin_embeddings, cosine
from stylereel.metrics.motion import loop, unsteadiness
from stylereel.recipes.stylegan3 import draw_at
from stylereel.systems.stylefacev import data
from stylereel.systems.stylefacev.appearance import HELD_OUT
from stylereel.systems.stylefacev.model import NAMES, PLACE, SHOWN, load_nets, places, to_code, to_values, transforms
from stylereel.systems.stylefacev.system import StyleFaceV

PROBED = ("yaw", "pitch", "roll", "jaw")
PEOPLE, LEARNED, TOLD = 100, 8, 12
CLIPS = 40  # of a minute: the ranges of slow numbers such as roll differ by a third between sets of ten
FACTORS = ("yaw", "pitch", "roll", "jaw", "smile", "blink_left", "gaze_x", "shift_x")


def db(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio [N] of images uint8 [N, H, W, 3]."""
    error = (one.astype(np.float64) - other) ** 2
    return 10 * np.log10(255**2 / error.mean((1, 2, 3)))


def interval(values: np.ndarray) -> str:
    """The mean with its 95 % interval."""
    return f"{values.mean():.2f} +- {1.96 * values.std() / len(values) ** 0.5:.2f}"


class Scene:
    """Held-out people with poses of natural clips: frames as a camera has them, with all that is known of them."""

    def __init__(self, seed: int, people: int, each: int) -> None:
        random = np.random.default_rng((89, seed))
        self.person = np.repeat(data.people(people, HELD_OUT + seed), each, 0)
        motion = data.motions(people * each, 7000 + seed, 24)
        motion[:, 2] += random.uniform(-8, 8, len(motion))
        motion[:, 3:5] += random.uniform(-0.06, 0.06, (len(motion), 2))
        self.values = data.values_of(self.person, motion)
        self.pose = data.pose_values(self.values)
        crops, rows = [], []
        for value in self.values:
            drawn = world.draw(value, 160)
            crop, row = data.cut_out(drawn.image, drawn.landmarks, random)
            crops.append(crop)
            rows.append(row)
        self.crops, self.rows = np.stack(crops), np.stack(rows)

    def __len__(self) -> int:
        return len(self.person)

    def z(self, pose: np.ndarray | None = None) -> Tensor:
        """The generator's latents [N, 80] of the people, with other poses [N, 16] if they are given."""
        normals = data.motion_normals(self.pose if pose is None else pose)
        return data.latents(torch.from_numpy(self.person).float(), normals)

    def truth(self, pose: np.ndarray, size: int) -> np.ndarray:
        """The world's exact images [N, size, size, 3] of the people with poses [N, 16]."""
        matrices = transforms(torch.from_numpy(pose)).float()
        parts = [
            pictures(draw_at(z.double().numpy(), matrix, size, data.KNOWN).images)
            for z, matrix in zip(self.z(pose).split(8), matrices.split(8))
        ]
        return np.concatenate(parts)


def read(system: StyleFaceV, scene: Scene) -> tuple[Tensor, np.ndarray]:
    """Appearance codes [N, C] and poses [N, 16] in the frame, as the networks read them."""
    appearance = torch.cat([system.appearance(part) for part in np.array_split(scene.crops, -(-len(scene) // 32))])
    codes = torch.cat([system.poses(part) for part in np.array_split(scene.crops, -(-len(scene) // 32))])
    values = to_values(codes).numpy()
    matrix = placement.stylegan3_transform(scene.rows, data.WHOLE) @ transforms(torch.from_numpy(values)).numpy()
    values[:, PLACE] = places(torch.from_numpy(matrix)).numpy()
    return appearance, values


def show(system: StyleFaceV, w: Tensor, pose: np.ndarray) -> np.ndarray:
    """Images of w [N, L, D] at the places of poses [N, 16]."""
    matrices = transforms(torch.from_numpy(pose)).float()
    shown = []
    with torch.inference_mode():
        for codes, matrix in zip(w.split(8), matrices.split(8)):
            shown.append(pictures(system.generator.synthesize(codes, transform=matrix)))
    return np.concatenate(shown)


def ridge(x: np.ndarray, y: np.ndarray, weight: float) -> Callable[[np.ndarray], np.ndarray]:
    """A linear probe: the ridge regression of y [N, K] on x [N, C], in deviations."""
    mean, deviation = x.mean(0), x.std(0) + 1e-6

    def units(x: np.ndarray) -> np.ndarray:
        return np.pad((x - mean) / deviation, ((0, 0), (0, 1)), constant_values=1.0)

    u = units(x)
    matrix = np.linalg.solve(u.T @ u + weight * len(x) * np.eye(u.shape[1]), u.T @ y)
    return lambda x: units(x) @ matrix


def logistic(x: np.ndarray, labels: np.ndarray, classes: int) -> Callable[[np.ndarray], np.ndarray]:
    """A linear probe: multinomial logistic regression; gives labels."""
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    net = torch.nn.Linear(x.shape[1], classes)
    inputs, target = torch.from_numpy((x - mean) / deviation).float(), torch.from_numpy(labels)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=200)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(inputs), target) + 1e-4 * net.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return lambda x: net(torch.from_numpy((x - mean) / deviation).float()).argmax(1).numpy()


def of_codes(system: StyleFaceV) -> None:
    """What is in the codes."""
    scene = Scene(0, PEOPLE, LEARNED + TOLD)
    appearance, poses = read(system, scene)
    label = np.repeat(np.arange(PEOPLE), LEARNED + TOLD)
    learn = np.tile(np.arange(LEARNED + TOLD) < LEARNED, PEOPLE)
    for name, x in (("pose code", to_code(torch.from_numpy(poses)).numpy()), ("appearance code", appearance.numpy())):
        told = logistic(x[learn], label[learn], PEOPLE)(x[~learn])
        print(f"person by a linear probe on the {name}: {100 * np.mean(told == label[~learn]):.1f} % (chance 1 %)")
    columns = [NAMES.index(name) for name in PROBED]
    first = label < 0.7 * PEOPLE
    truth = scene.pose[:, columns]
    told = ridge(appearance.double().numpy()[first], truth[first], 0.01)(appearance.double().numpy()[~first])
    r2 = 1 - ((told - truth[~first]) ** 2).mean(0) / truth[~first].var(0)
    print("R2 of the pose by a linear probe on the appearance code: "
          + ", ".join(f"{name} {value:.2f}" for name, value in zip(PROBED, r2)))  # fmt: skip
    grouped = appearance.unflatten(0, (PEOPLE, -1))
    within = (grouped - grouped.mean(1, keepdim=True)).square().sum() / (appearance - appearance.mean(0)).square().sum()
    print(f"variance of the appearance code within people: {100 * float(within):.1f} %")
    print("read pose against truth, correlation (mean error): " + ", ".join(
        f"{name} {np.corrcoef(poses[:, i], scene.pose[:, i])[0, 1]:.2f} ({np.abs(poses - scene.pose)[:, i].mean():.3f})"
        for i, name in enumerate(NAMES)
    ))  # fmt: skip


def of_pictures(system: StyleFaceV, sheet: Path | None) -> None:
    """Reconstructions and swaps against the world's exact images."""
    scene = Scene(1, 24, 1)
    size = system.generator.resolution
    appearance, poses = read(system, scene)
    others = np.roll(poses, -1, 0), np.roll(scene.pose, -1, 0)
    with torch.inference_mode():
        exact = [system.generator.map(scene.z(pose)) for pose in (scene.pose, others[1])]
    own, swapped = scene.truth(scene.pose, size), scene.truth(others[1], size)
    shown = {
        "reconstruction": (show(system, system.fuse(appearance, to_code(torch.from_numpy(poses))), poses), own),
        "reconstruction by the exact w": (show(system, exact[0], scene.pose), own),
        "swap": (show(system, system.fuse(appearance, to_code(torch.from_numpy(others[0]))), others[0]), swapped),
        "swap by the exact w": (show(system, exact[1], others[1]), swapped),
        "the frame as it was, for the swap": (own, swapped),
    }
    for name, (images, truth) in shown.items():
        print(f"{name}: {interval(db(images, truth))} dB to the world's exact image")
    straight = np.array(others[1])
    straight[:, PLACE] = (0, 0, 0, 1)
    embedded = [builtin_embeddings(show(system, w, straight)) for w in (
        system.fuse(appearance, to_code(torch.from_numpy(others[0]))), exact[1])]  # fmt: skip
    target = builtin_embeddings(scene.truth(straight, size))
    ours, best = (cosine(each, target) for each in embedded)
    print(f"identity of the swap (built-in net, upright) to the world's image: {interval(ours)}; by the exact w "
          f"{interval(best)}")  # fmt: skip
    points, motion = by_face_net(show(system, system.fuse(appearance, to_code(torch.from_numpy(others[0]))), straight))
    print("pose of swaps by the face net, correlation: " + ", ".join(
        f"{NAMES[i]} {np.corrcoef(motion[:, i], others[1][:, i])[0, 1]:.2f}" for i in SHOWN
    ))  # fmt: skip
    assert len(points) == len(scene)
    if sheet is not None:
        columns = 8
        rows = [own, shown["reconstruction"][0], np.roll(own, -1, 0), shown["swap"][0], swapped]
        save_picture(sheet, contact_sheet([image for row in rows for image in row[:columns]], columns))


def identities(system: StyleFaceV) -> None:
    """Identity over the frames of samples, next to that of the generator's exact w and of the world's own frames."""
    ours, exact, ceiling = [], [], []
    size = system.generator.resolution
    for seed in range(4):
        pose = to_values(system.sample_path(seed, 500))[::40].numpy()
        scene_person = np.repeat(data.people(1, HELD_OUT + 50 + seed), len(pose), 0)
        straight = pose.copy()
        straight[:, PLACE] = (0, 0, 0, 1)
        z = data.latents(torch.from_numpy(scene_person).float(), data.motion_normals(straight))
        drawn = np.stack([world.draw(v, size).image for v in data.upright(data.values_of(scene_person, straight))])
        code = system.appearance(drawn[:1])
        with torch.inference_mode():
            best = system.generator.map(z)
        made = system.fuse(code, to_code(torch.from_numpy(straight)))
        for images, kept in ((show(system, made, straight), ours), (show(system, best, straight), exact),
                             (drawn, ceiling)):  # fmt: skip
            embedded = builtin_embeddings(images)
            kept.append(cosine(embedded[1:], embedded[0]).mean())
    a, b, c = (np.array(each) for each in (ours, exact, ceiling))
    print(f"identity of later frames to the first of a sample: {interval(a)}; by the exact w {interval(b)}; the "
          f"world's own frames {interval(c)}; share of the world's {a.mean() / c.mean():.3f}, of the exact w's "
          f"{a.mean() / b.mean():.3f}")  # fmt: skip


def described(tracks: np.ndarray) -> dict[str, dict[str, float]]:
    """Range (2nd to 98th percentile), speed (root mean square, and 95 % of the absolute) and jitter of each factor in
    tracks [N, T, 16]; blinks a minute."""
    found: dict[str, dict[str, float]] = {}
    for name in FACTORS:
        rows = tracks[:, :, NAMES.index(name)].astype(np.float64)
        low, high = np.quantile(rows, (0.02, 0.98))
        speed = np.diff(rows, axis=1)
        found[name] = {
            "range": float(high - low), "deviation": float(rows.std()), "speed": float(np.sqrt((speed**2).mean())),
            "fast": float(np.quantile(np.abs(speed), 0.95)),
            "jitter": float(np.sqrt(np.mean([np.square(unsteadiness(row)) for row in rows]))),
        }  # fmt: skip
    shut = tracks[:, :, NAMES.index("blink_left")] > 0.5
    found["blinks"] = {"a minute": float(np.count_nonzero(shut[:, 1:] & ~shut[:, :-1]) / shut.size * 25 * 60)}
    return found


def of_motion(system: StyleFaceV) -> None:
    """Ten minutes of samples against held-out clips of the same length."""
    minutes = 10
    real = to_values(data.clip_codes(CLIPS, 60 * 25, seed=90_000)).numpy()
    seconds = time.perf_counter()
    long = to_values(system.sample_path(1, minutes * 60 * 25)).numpy()
    seconds = time.perf_counter() - seconds
    many = np.stack([to_values(system.sample_path(seed, 1500)).numpy() for seed in range(10, 10 + CLIPS)])
    ours, theirs = described(many), described(real)
    print(f"{minutes} minutes of poses from noise take {seconds:.1f} s")
    for name, numbers in ours.items():
        ratios = ", ".join(f"{key} {value / max(theirs[name][key], 1e-9):.2f}" for key, value in numbers.items())
        print(f"samples of a minute, next to as many held-out clips: {name}: {ratios}")
    fifths = np.array_split(long, 5)
    for name in FACTORS:
        column = NAMES.index(name)
        parts = ", ".join(f"{part[:, column].mean():+.2f} ({part[:, column].std():.2f})" for part in fifths)
        print(f"one sample, mean (deviation) of each two minutes: {name} {parts}")
    print(f"largest repetition in ten minutes: {loop(long[::5], 100).repetition:.2f}; of clips "
          f"{np.mean([loop(track[::5], 20).repetition for track in real]):.2f}")  # fmt: skip


def of_place(system: StyleFaceV) -> None:
    """Roll and shift."""
    scene = Scene(2, 24, 1)
    _, poses = read(system, scene)
    error = np.abs(poses - scene.pose)
    spread = scene.pose.std(0)
    print(f"place read off frames, mean error: roll {error[:, 2].mean():.2f} degrees (of {spread[2]:.1f}), shift "
          f"{128 * error[:, 3].mean():.2f} and {128 * error[:, 4].mean():.2f} px of 128 (of {128 * spread[3]:.1f} and "
          f"{128 * spread[4]:.1f})")  # fmt: skip
    appearance = system.appearance(scene.crops[:6])
    w = system.fuse(appearance, to_code(torch.from_numpy(poses[:6])))
    for kind, draw in {
        "shift": lambda r: image_transform(0.0, *r.uniform(-0.1, 0.1, 2)),
        "roll": lambda r: image_transform(r.uniform(-20, 20)),
    }.items():
        random, errors = np.random.default_rng(3), []
        for code in w.split(1):
            matrix = draw(random)
            with torch.inference_mode():
                still = system.generator.synthesize(code)
                moved = system.generator.synthesize(code, transform=matrix.float())
            target, mask = move(still, matrix, disk)
            errors.append(float((moved.double() - target).square().mean((0, 1))[mask].mean()))
        print(f"equivariance to {kind}: {10 * np.log10(4 / np.mean(errors)):.1f} dB")


def of_speed(system: StyleFaceV) -> None:
    """Milliseconds a frame of each stage."""
    scene = Scene(3, 16, 1)
    code, pose = system.appearance(scene.crops[:1]), to_code(torch.from_numpy(scene.pose))

    def clock(name: str, run: Callable[[], object], frames: int) -> None:
        run()
        began, cpu = time.perf_counter(), time.process_time()
        for _ in range(3):
            run()
        took, used = ((now - then) / 3 / frames * 1000 for now, then in (
            (time.perf_counter(), began), (time.process_time(), cpu)))  # fmt: skip
        print(f"{name}: {took:.2f} ms a frame ({used:.2f} of processor)")

    clock("appearance", lambda: system.appearance(scene.crops), 16)
    clock("face net and pose", lambda: system.poses(scene.crops), 16)
    clock("poses from noise", lambda: system.sample_path(0, 500), 500)
    clock("fusion", lambda: system.fuse(code, pose), 16)
    identity, _ = system.sample(0, 1)
    motion = system.sample(0, 16)[1]
    for precision in ("32", "bf16"):
        clock(f"apply and generator, {precision}", lambda: list(render(system, identity, motion, 16, precision)), 16)  # type: ignore[arg-type] # noqa: B023


def table(system: StyleFaceV, path: Path, people: int = 6, poses: int = 8) -> None:
    """Appearances of seeds (rows) with the poses of one sample (columns)."""
    motion = system.sample(4, 25 * poses)[1]
    motion = replace(motion, values=motion.values[::25], placement=motion.placement[::25])
    assert isinstance(motion, Motion) and motion.rate == Fraction(25)
    images = [image for seed in range(people) for image in render(system, system.identify(seed), motion)]
    save_picture(path, contact_sheet(images, poses))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--only", default="codes,pictures,motion,place,speed")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    files = [builtin("generator3"), given.weights or builtin("stylefacev"), builtin("face")]
    system = StyleFaceV(StyleGAN3.load(files[0]), load_nets(files[1]), load_face(files[2]), files)
    parts = given.only.split(",")
    if "codes" in parts:
        of_codes(system)
    if "pictures" in parts or given.sheet:
        of_pictures(system, given.sheet)
        identities(system)
    if "motion" in parts:
        of_motion(system)
    if "place" in parts:
        of_place(system)
    if "speed" in parts:
        of_speed(system)
    if given.table:
        table(system, given.table)


if __name__ == "__main__":
    main()
