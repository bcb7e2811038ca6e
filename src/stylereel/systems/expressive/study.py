"""The comparisons of the Expressive paper, repeated on held-out people of the built-in family.

Re-synthesis with and without pivotal tuning, and by the ways to the 32 numbers; the pose loss of measured angles that
are put in directly, and of angles found by analysis by synthesis, through the mapping network, a linear direction and a
flow; puppeteering beside the other systems, against the world's exact image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from collections.abc import Mapping as Table
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylereel import systems, world
from stylereel.core.builtin import builtin
from stylereel.core.files import replacing
from stylereel.core.latents import FACE, Motion
from stylereel.core.record import sha256
from stylereel.core.render import pictures, render
from stylereel.core.runs import claim
from stylereel.core.system import Device
from stylereel.faces.pose import smooth
from stylereel.invert.networks import encoded
from stylereel.invert.perceptual import Perceptual, distance
from stylereel.metrics.exact import HELD_OUT, by_face_net
from stylereel.metrics.features import face_features, face_motion_features, shrink_for_face, to_unit
from stylereel.metrics.frechet import Pool, frechet_between
from stylereel.metrics.intervals import jackknife
from stylereel.metrics.likeness import builtin_embeddings, cosine
from stylereel.metrics.report import Claim, Number, write_report
from stylereel.systems.expressive import fit, search
from stylereel.systems.expressive.channels import POSE
from stylereel.systems.expressive.pose import PLACES, Flowing, Linear, Mapping, Turn, motion_with, random_angles
from stylereel.systems.expressive.system import Expressive
from stylereel.systems.sources import world_generator
from stylereel.world.factors import HIGH, LATENT_DIM, LOW, MOTION, MOTION_COLUMNS

STEPS = 20  # of each optimisation
PASSES = 30  # of pivotal tuning
PIVOTS = 4  # frames of a clip that it sees
FLOW_STEPS = 300
OTHERS = ("stylemask", "styleheat")  # whose puppets are compared
EVERY, WINDOW = 4, 4  # of 25 frames a second, those that are measured; frames of a window of the mouth
MOUTH = (0.52, 0.3, 0.4)  # top, left and side of its square, as parts of the image's
MANNERS = ("talking", "expressions", "listening")
RATE = Fraction(25)
WAYS = {"the code of one pass": "one pass", "optimised from it": "refined", "optimised from nothing": "optimised"}
SEEN = ("jaw", "pucker", "press", "blink_left", "blink_right", "gaze_x", "gaze_y")
TRACKS = {
    "pose r": ("yaw", "pitch", "roll"),
    "expression r": ("jaw", "smile", "pucker", "press", "brow_left", "brow_right", "blink_left", "blink_right"),
    "gaze r": ("gaze_x", "gaze_y"),
}
MOVES = 0.03  # of its range: the deviation from which a factor counts as moving in a clip
COLUMNS = ("PSNR, dB", "features", "identity", "expression error", *TRACKS)
PUPPETS = ("Frechet", "Frechet of mouths")


def reproduce(
    *,
    out: str,
    clips: int = 4,
    frames: int = 24,
    pairs: int = 24,
    seed: int = 0,
    trainings: str | None = None,
    device: Device = "auto",
    family: str = "builtin",
    overwrite: bool = False,
) -> list[Path]:
    """Expressive's paper on the built-in family: tuning, ways to pose and code, puppeteering beside other systems.

    Writes report.md and report.json. Each clip's numbers are kept; a stopped run goes on after the last whole clip.

    Args:
        out: folder for the report.
        clips: held-out clips of the world, 2 or more.
        frames: frames of each.
        pairs: pairs of a source person and a driver, 2 or more.
        seed: random seed of the people and of the intervals.
        trainings: folder for what is kept; null puts it into the folder `out`.
        device: where the networks run; auto takes a GPU if there is one.
        family: whose weights; the study needs the built-in people's.
        overwrite: also replace a report that no earlier run made.
    """
    if clips < 2 or pairs < 2 or frames < 4:
        raise ValueError("The study needs 2 clips of 4 frames, and 2 pairs or more.")
    folder = Path(out)
    claim([folder / "report.md", folder / "report.json"], overwrite=overwrite)
    world_generator(family, device)  # refuses one that did not learn the world's people
    system = systems.load("expressive", family=family, device=device)
    assert isinstance(system, Expressive)
    store = Path(trainings) if trainings else folder / "trainings"
    facts: dict[str, Any] = {"frames": frames, "steps": STEPS, "passes": PASSES, "seed": seed}
    facts["weights"] = {name: sha256(builtin(name)) for name in ("generator", "expressive", "face")}
    ways = pose_ways(system)
    found: list[dict[str, dict[str, float]]] = []
    for number in range(clips):
        found.append(_kept(store, {**facts, "clip": number}, lambda: one_clip(system, ways, number, frames, seed)))  # noqa: B023
    puppets = _kept(store, {**facts, "pairs": pairs}, lambda: puppeteer(pairs, frames, seed, device, family))

    def number_of(row: str, column: str) -> Number:
        return Number.mean(np.array([clip[row][column] for clip in found if column in clip[row]]), seed)

    rows: dict[str, dict[str, Number | str]] = {}
    for name in found[0]:
        rows[name] = {column: number_of(name, column) if column in found[0][name] else "" for column in
                      (*COLUMNS, *PUPPETS, "pose loss", "degrees off")}  # fmt: skip
    for name, values in puppets.items():
        rows[f"puppets: {name}"] = {column: _number(column, each, seed) for column, each in values.items()}

    def less(one: str, other: str, column: str, words: str, more: bool) -> Claim:
        apart = np.array([clip[one][column] - clip[other][column] for clip in found])
        return Claim.of(words, column, Number.mean(apart, seed), more)

    claims = [
        less("tuned", "the code of one pass", "PSNR, dB", "Pivotal tuning raises the PSNR of re-synthesis", True),
        less("tuned", "the code of one pass", "identity", "Pivotal tuning keeps more of the identity", True),
        less("tuned", "the code of one pass", "expression r", "Pivotal tuning makes expressions follow better", True),
        less("pose by flow, searched", "pose by flow, put in", "pose loss",
             "Angles by analysis by synthesis have a smaller pose loss than measured ones put in (flow)", False),
        less("pose by mapping, searched", "pose by mapping, put in", "pose loss",
             "The same through the mapping network", False),
        less("optimised from it", "the code of one pass", "features", "Optimisation comes closer than one pass", False),
        less("the person by the iterated encoder", "the code of one pass", "PSNR, dB",
             "A person by ReStyle is shown less well than by e4e", False),
    ]  # fmt: skip
    better = {
        "identity": (True, "keeps identity better"),
        "Frechet": (False, "looks more like true frames"),
        "Frechet of mouths": (False, "moves its mouth more like a true one"),
        "expression r": (True, "follows the driver's expression better"),
        "gaze r": (True, "follows the driver's gaze better"),
        "expression error": (False, "comes closer to the driver's expression"),
        "PSNR, dB": (True, "comes closer to the exact image"),
    }
    for other in OTHERS:
        for column, (more, words) in better.items():
            apart = np.array(puppets["expressive"][column], float) - np.array(puppets[other][column], float)
            found_apart = _number(column, list(apart), seed)
            claims.append(Claim.of(f"A puppet by Expressive {words} than by {other}", column, found_apart, more))
    facts |= {
        "clips": clips,
        "pairs": pairs,
        "intervals": "95 %, bootstrap over clips, or over pairs",
        "features": "distance of the face net's features (LPIPS over AlexNet where its files are)",
        "identity": "built-in net, cosine with the true frames; of puppets with the true image of the source",
        "expression error": "mean over " + ", ".join(SEEN) + " by the face net, in shares of half the range",
        "Frechet": f"of the face net's features of all frames; of mouths: of windows of {WINDOW} frames; jackknife",
        "r": "mean correlation of factors that move, by the face net, with the truth within clips",
        "e4e, ReStyle": "the built-in encoder in one pass, and in a loop through the generator, stand for them",
        "pose loss": "squared error and feature distance of the head, without eyes, mouth and brows in the first",
        "degrees off": "mean of yaw, pitch and roll against the truth",
    }
    return write_report(folder, "Expressive on the built-in family", rows, claims, facts)


def _number(column: str, values: list[float], seed: int) -> Number:
    """The mean of pairs; of a Frechet distance, which is first, the jackknife over them."""
    if column not in PUPPETS:
        return Number.mean(np.array(values, float), seed)
    return Number(values[0], jackknife(values[0], [values[1:]])[0])


def _kept(store: Path, facts: Table[str, Any], make: Callable[[], Any]) -> Any:
    """What `make` gives, from a file of an earlier run with the same facts if there is one."""
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    path = store / f"part-{key}.json"
    if path.exists():
        return json.loads(path.read_text())["made"]
    made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps({"facts": dict(facts), "made": made}))
    return made


def draw_clip(number: int, frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Every `EVERY`th frame uint8 [T, 256, 256, 3] of a held-out person, and motion factors [T, 20]."""
    person = HELD_OUT + 300_000 + 1000 * seed + number
    values = world.from_latent(np.random.default_rng(person).standard_normal((1, LATENT_DIM)))[0]
    values = world.align(_with_motion(values, _natural(person, MANNERS[number % 3], frames)[::EVERY]))
    return np.stack([world.draw(one, 256).image for one in values]), values[:, MOTION_COLUMNS]


def pose_ways(system: Expressive) -> dict[str, Turn]:
    """The three ways to turn a head; the linear one and the flow are fitted to the generator's own labels."""
    generator = system.generator
    angles = random_angles(4000, 5)
    with torch.inference_mode():
        w = torch.cat([system_rows(generator, part) for part in np.split(angles, 8)]).clone()
    labels = torch.from_numpy(angles).float()
    return {"mapping": Mapping(generator), "linear": Linear.fit(w, labels), "flow": Flowing(train_flow(w, labels))}


def system_rows(generator: Any, angles: np.ndarray) -> Tensor:
    """Pose rows [N, D] of codes at angles [N, 3]."""
    from stylereel.family.people import motion_codes

    return motion_codes(generator, motion_with(angles))[:, 0]


def train_flow(w: Tensor, angles: Tensor) -> Any:
    """A small StyleFlow of codes [N, D] under angles [N, 3], by likelihood."""
    from stylereel.systems.expressive.pose import REACH, SOLVER

    torch.manual_seed(0)
    flow = Flowing.network(w.shape[1]).train()
    optimizer = torch.optim.Adam(flow.parameters(), 1e-3)
    noise = 0.02 * w.std()  # the codes lie on a surface, on which a density has no bound
    for _ in range(FLOW_STEPS):
        chosen = torch.randint(len(w), (64,))
        x = (w[chosen] + noise * torch.randn(64, w.shape[1]))[:, None]
        z, change = flow.densities(x, angles[chosen] / REACH, torch.randn_like(x), SOLVER)
        loss = (0.5 * z.square().sum(-1, keepdim=True) + change).mean() / w.shape[1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return flow.eval().requires_grad_(False)


def one_clip(
    system: Expressive, ways: Table[str, Turn], number: int, frames: int, seed: int
) -> dict[str, dict[str, float]]:
    """The measures of each way to show a held-out clip again."""
    images, motion = draw_clip(number, frames, seed)
    w, perceptual = encoded(system.encode, images[:1])[0], Perceptual.best()
    truth = _Truth(images, motion, perceptual)
    read = [system.read_images(to_unit(part)) for part in np.split(images, range(8, frames, 8))]
    numbers = torch.from_numpy(system.encode_factors(smooth(np.concatenate(read), RATE / EVERY, 0.04)))
    small = F.adaptive_avg_pool2d(to_unit(images), search.SIZE)
    with torch.inference_mode():
        points = system.face(small).landmarks
        base = system.base(w[None], numbers[:, : len(POSE)])
    points, base = points.clone(), base.clone()

    def solve(places: list[int], start: Tensor) -> Tensor:
        args = system.generator, system.channels, lambda part: base[places][part], small[places], points[places]
        return fit.refine(*args, start, perceptual, STEPS).values

    every = list(range(frames))
    codes = {"one pass": numbers[:, len(POSE) :]}
    codes["refined"] = solve(every, codes["one pass"])
    codes["optimised"] = solve(every, fit.by_key_frames(frames, solve, len(system.channels.names)))
    found = {name: truth.measure(_show(system, base, codes[code])) for name, code in WAYS.items()}
    again = {
        "by the iterated encoder": fit.looped(system.generator, system.encode, w, images[0]),
        "optimised after it": fit.person(system.generator, system.encode, system.face, w, images[0]),
    }
    for name, code in again.items():
        with torch.inference_mode():
            other = system.base(code[None], numbers[:, : len(POSE)])
        found[f"the person {name}"] = truth.measure(_show(system, other, codes["one pass"]))
    chosen = np.linspace(0, len(images) - 1, PIVOTS).round().astype(int)
    delta = fit.tune_to(
        system.generator, system.channels.apply_to(base, codes["one pass"])[chosen], images[chosen], PASSES
    )
    tuned = system.generator.tuned(delta)
    found["tuned"] = truth.measure(_show(system, base, codes["one pass"], tuned))
    own = numbers[:1, : len(POSE)]
    plain = system.plain(w[None])
    measured = numbers[:, : len(POSE)].clone()
    for name, turn in ways.items():
        given = fit.search_angles(system.generator, turn, plain, own, small, points, perceptual, measured, STEPS)
        for how, angles, loss in (("put in", measured, given.before), ("searched", given.values, given.after)):
            off = np.abs(angles.numpy() - motion[:, PLACES]).mean()
            found[f"pose by {name}, {how}"] = {"pose loss": float(loss.mean()), "degrees off": float(off)}
    return found


class _Truth:
    """A clip and what networks read in it."""

    def __init__(
        self, images: np.ndarray, motion: np.ndarray, perceptual: Perceptual, embeddings: np.ndarray | None = None
    ) -> None:
        self.images, self.motion, self.perceptual = images, motion, perceptual
        self.embeddings = builtin_embeddings(images) if embeddings is None else embeddings

    def measure(self, shown: np.ndarray) -> dict[str, float]:
        places = [MOTION.index(name) for name in SEEN]
        half = (HIGH - LOW)[MOTION_COLUMNS][places] / 2
        seen = by_face_net(shown)[1]
        with torch.inference_mode():
            apart = distance(self.perceptual(to_unit(shown)), self.perceptual(to_unit(self.images))).mean()
        error = np.square(shown.astype(float) - self.images).mean((1, 2, 3))
        return {
            "PSNR, dB": float((10 * np.log10(255**2 / error)).mean()),
            "features": float(apart),
            "identity": float(cosine(builtin_embeddings(shown), self.embeddings).mean()),
            "expression error": float((np.abs(seen - self.motion)[:, places] / half).mean()),
            **{group: self._together(seen, names) for group, names in TRACKS.items()},
        }

    def _together(self, seen: np.ndarray, names: tuple[str, ...]) -> float:
        """Mean correlation with the truth of those factors that move; NaN where none does."""
        places = [MOTION.index(name) for name in names]
        ranges = (HIGH - LOW)[MOTION_COLUMNS]
        moving = [place for place in places if self.motion[:, place].std() > MOVES * ranges[place]]
        found = [np.corrcoef(seen[:, place], self.motion[:, place])[0, 1] for place in moving]
        return float(np.mean(found)) if found else float("nan")


@torch.inference_mode()
def _show(system: Expressive, base: Tensor, code: Tensor, generator: Any = None) -> np.ndarray:
    generator = system.generator if generator is None else generator
    flat = system.channels.apply_to(base, code)
    parts = [generator.synthesize(s=generator.style_space.unflatten(part)) for part in flat.split(8)]
    return np.concatenate([pictures(part) for part in parts])


def puppeteer(pairs: int, frames: int, seed: int, device: Device, family: str) -> dict[str, dict[str, list[float]]]:
    """Measures of clips of held-out sources by the true motion of held-out drivers, by each system.

    Of each measure a number for each pair, but of a Frechet distance itself and those without each pair's clip.
    """
    z = np.random.default_rng((HELD_OUT, 8, seed)).standard_normal((pairs, LATENT_DIM))
    people = world.align(world.from_latent(z))
    sources = np.stack([world.draw(one, 256).image for one in people])
    moved = [
        _natural(HELD_OUT + 400_000 + 1000 * seed + number, MANNERS[number % 3], frames) for number in range(pairs)
    ]
    true = [world.align(_with_motion(one, values[::EVERY])) for one, values in zip(people, moved)]
    exact = [np.stack([world.draw(one, 256).image for one in clip]) for clip in true]
    embeddings, perceptual = [builtin_embeddings(clip) for clip in exact], Perceptual.best()
    target = [_features(clip) for clip in exact]
    found: dict[str, dict[str, list[float]]] = {}
    for name in ("expressive", *OTHERS):
        system = systems.load(name, family=family, device=device)
        rows: dict[str, list[float]] = {column: [] for column in (*COLUMNS, *PUPPETS)}
        made = []
        for picture, values, clip, known in zip(sources, moved, exact, embeddings):
            place = np.tile(np.array([128, 128, 200, 0], np.float32), (len(values), 1))
            motion = Motion(values, FACE, MOTION, RATE, place)  # all frames: a system may look at the ones around
            shown = np.stack(list(render(system, system.identify(picture), motion))[::EVERY])
            if shown.shape[1] != clip.shape[1]:
                shown = pictures(F.adaptive_avg_pool2d(to_unit(shown), clip.shape[1]))
            for column, value in _Truth(clip, values[::EVERY], perceptual, known).measure(shown).items():
                rows[column].append(value)
            made.append(_features(shown))
        for column, place in zip(PUPPETS, (0, 1)):
            value, (without, _) = frechet_between(*(_pool([clip[place] for clip in side]) for side in (made, target)))
            rows[column] = [value, *without]
        found[name] = rows
    return found


def _pool(clips: list[np.ndarray]) -> Pool:
    """Features [N, D] of clips, each a group."""
    pool = Pool(len(clips), 0)
    for group, part in enumerate(clips):
        places = np.stack([np.full(len(part), group), np.arange(len(part))], 1)
        pool.add(part, np.full(len(part), group), places)
    return pool


def _natural(seed: int, manner: str, frames: int) -> np.ndarray:
    """Motion factors [`EVERY` T, 20] of a person, 25 a second."""
    motion = world.natural_motion(seed, EVERY * frames, RATE, manner)  # type: ignore[arg-type]
    return np.clip(motion, LOW[MOTION_COLUMNS], HIGH[MOTION_COLUMNS])


def _with_motion(person: np.ndarray, motion: np.ndarray) -> np.ndarray:
    values = np.repeat(person[None], len(motion), 0)
    values[:, MOTION_COLUMNS] = motion
    return values


def _features(clip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The face net's features [T, 512] of frames, and of windows [N, 1024] of their mouths."""
    small = np.stack([shrink_for_face(frame) for frame in clip])
    side = clip.shape[1]
    top, left, size = (round(share * side) for share in MOUTH)
    mouths = np.stack([shrink_for_face(frame[top : top + size, left : left + size]) for frame in clip])
    windows = np.stack([mouths[at : at + WINDOW] for at in range(len(clip) - WINDOW + 1)])
    return face_features(small), face_motion_features(windows)
