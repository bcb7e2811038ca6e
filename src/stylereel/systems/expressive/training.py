"""`stylereel train expressive`: the search of the channels, the matrix of the code, and the reader of images.

For the built-in generator natural changes are those of the world's motion, by the mapping network, and a reader is
trained on drawn portraits with their true motion. For any other StyleGAN2 the changes are its own deviations, and
there is no reader; the channels of `Channels` are for its `code` then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stylereel import world
from stylereel.core.render import pictures
from stylereel.core.weights import read_tensors, write_tensors
from stylereel.faces import backend
from stylereel.family.nets import FaceNet
from stylereel.family.people import codes_of, motion_codes
from stylereel.generator import StyleGAN2
from stylereel.invert.perceptual import Perceptual
from stylereel.metrics.features import to_unit
from stylereel.recipes.run import WORLD, Run, makes, shown
from stylereel.systems.expressive import search
from stylereel.systems.expressive.channels import KIND, REGIONS, Channels, ChannelsConfig, table
from stylereel.systems.expressive.reader import GAZE, PARTS, READ, SHUT, Detail, Reader, mirror, targets
from stylereel.systems.sources import prepared_motion
from stylereel.train.loop import cosine
from stylereel.train.sources import Source, open_source
from stylereel.world.factors import EXPRESSION, HIGH, LATENT_DIM, LOW, MOTION, MOTION_COLUMNS
from stylereel.zoo.formats import load_generator_file

FRAMES, SUBJECTS = 4, 6  # of the search; of the derivatives
CLIPS = 100  # of natural motion, four frames of each
PEOPLE, EACH = 1000, 8  # portraits that the reader learns
HIDDEN, STEPS, BATCH, LR = 128, 3000, 128, 2e-3
DETAIL, DETAIL_STEPS, GROUPS = 24, 1500, 12  # width of the networks of the parts; their steps; people of a step
WITHIN = 2.0  # weight of what changes from frame to frame of a person
MANNERS = ("talking", "expressions", "listening")


def natural_expressions(count: int, seed: int) -> np.ndarray:
    """Motion factors [4 count, 20] of frames of natural clips, the head still and straight."""
    frames = []
    for index in range(count):
        motion = world.natural_motion(seed + index, 200, manner=MANNERS[index % 3])  # type: ignore[arg-type]
        frames.append(motion[np.random.default_rng(seed + index).integers(0, 200, 4)])
    values = np.clip(np.concatenate(frames), LOW[MOTION_COLUMNS], HIGH[MOTION_COLUMNS])
    values[:, [name not in EXPRESSION for name in MOTION]] = world.neutral()[
        [column for name, column in zip(MOTION, MOTION_COLUMNS) if name not in EXPRESSION]
    ]
    return values


class Subjects(NamedTuple):
    """What a search looks at: S of frames [F, N]; of subjects without expression [B, N]; changes [M, N]; landmarks."""

    frames: Tensor
    subjects: Tensor
    changes: Tensor
    find: search.Landmarks


def of_family(generator: StyleGAN2, face: FaceNet, frames: int = FRAMES, subjects: int = SUBJECTS) -> Subjects:
    """Those of the built-in generator."""
    flatten = generator.style_space.flatten
    people = world.align(
        world.from_latent(np.random.default_rng(90).standard_normal((max(frames, subjects), LATENT_DIM)))
    )
    first = flatten(generator.styles(codes_of(generator, people[:frames])))
    plain = people[:subjects].copy()
    columns = [column for name, column in zip(MOTION, MOTION_COLUMNS) if name in EXPRESSION]
    plain[:, columns] = world.neutral()[columns]
    second = flatten(generator.styles(codes_of(generator, plain)))
    moved = motion_codes(generator, natural_expressions(CLIPS, 1000))
    rest = motion_codes(generator, world.neutral()[None, MOTION_COLUMNS])
    with torch.inference_mode():
        changes = flatten(generator.styles(moved)) - flatten(generator.styles(rest))
    return Subjects(first, second, changes, lambda images: face(images).landmarks)


def of_others(generator: StyleGAN2, frames: int = FRAMES, subjects: int = SUBJECTS) -> Subjects:
    """Those of any generator of faces: its own people, found by the detector of real faces."""
    finder = backend.open_backend("auto")

    def find(images: Tensor) -> Tensor:
        found = [backend.find_face(image, finder) / image.shape[0] for image in pictures(images)]
        return torch.from_numpy(np.stack(found)).float().to(images.device)

    people = search.frames_of(generator, max(frames, subjects), 90)
    unit = search.deviations(generator)
    places = search.searched(generator)
    changes = torch.zeros(len(places), len(unit), device=unit.device)
    changes[torch.arange(len(places)), places] = unit[places]
    return Subjects(people[:frames], people[:subjects], changes, find)


def find_channels(
    generator: StyleGAN2,
    given: Subjects,
    perceptual: Perceptual,
    kept: Path | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Channels, dict[str, str]]:
    """The search, whose sensitivities are kept in a file from one run to the next; and what it found, in words."""
    places, unit = search.searched(generator), search.deviations(generator)
    found = _sensitivities(generator, given, perceptual, places, unit, kept, dtype)
    is_local, strength = search.local(found)
    moved = given.changes.std(0) > 1e-4  # of these the matrix is made
    columns = places[moved[places]] if bool(moved[places].any()) else places
    carried = search.carry(
        generator, given.subjects, given.find, columns, given.changes.std(0), given.changes[:, columns]
    )
    tried = {int(place): index for index, place in enumerate(places)}
    candidates = [index for index, place in enumerate(columns.tolist()) if bool(is_local[:, tried[place]].any())]
    chosen = search.choose(carried, candidates)
    matrix, units = search.coder(carried, chosen)
    at = columns[chosen]
    seen = strength[:, [tried[int(place)] for place in at]] / strength.amax(1, keepdim=True)
    names = search.name_channels(range(len(chosen)), seen)
    channels = Channels(ChannelsConfig(" ".join(names), generator.style_space.size))
    channels.place.copy_(at)
    channels.unit.copy_(units)
    channels.matrix[:, columns] = matrix
    channels.sensitivity.copy_(seen)
    codes = channels.code(given.changes)
    channels.low.copy_(codes.quantile(0.005, 0))
    channels.high.copy_(codes.quantile(0.995, 0))
    order = strength[:, [tried[int(place)] for place in columns.tolist()]] / strength.amax(1, keepdim=True)
    strongest = sorted(candidates, key=lambda index: -float(order[:, index].max()))[: len(chosen)]

    def share(part: Sequence[int]) -> str:
        return ", ".join(f"{name} {carried.left(part, carried.products[r]):.2%}" for r, name in enumerate(REGIONS))

    return channels, {
        "local channels": f"{int(is_local.any(0).sum())} of {len(places)}, {len(candidates)} of them in moved layers",
        "not shown of natural changes": share(chosen),
        "by the first 16": share(chosen[: search.FIRST]),
        "by 32 in the order of sensitivity": share(strongest),
        "by the first 16 of these": share(strongest[: search.FIRST]),
    }


def _sensitivities(
    generator: StyleGAN2,
    given: Subjects,
    perceptual: Perceptual,
    places: Tensor,
    unit: Tensor,
    kept: Path | None,
    dtype: torch.dtype | None,
) -> Tensor:
    done: list[Tensor] = []
    if kept is not None and kept.exists():
        done = list(read_tensors(kept)[0]["found"])
    for index in range(len(done), len(given.frames)):
        frame = given.frames[index : index + 1]
        done.append(search.sensitivity(generator, frame, given.find, perceptual, places, unit, dtype).cpu())
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(kept, {"found": torch.stack(done)}, {"kind": "sensitivities"})
    return torch.stack(done[: len(given.frames)]).to(given.frames.device)


def portraits(person: int) -> tuple[np.ndarray, np.ndarray]:
    """Drawn portraits uint8 [8, 256, 256, 3] of a person, and their motion factors [8, 20].

    Half are frames of a natural clip. The other half differ in expression alone: one pose at random, and each factor,
    as often as not, that of a frame of the clip, else anywhere in its range.
    """
    random = np.random.default_rng((61, person))
    values = np.repeat(world.from_latent(random.standard_normal((1, LATENT_DIM))), EACH, 0)
    motion = world.natural_motion(person, 500, manner=MANNERS[person % 3])  # type: ignore[arg-type]
    motion = motion[random.choice(500, EACH, replace=False)]
    half, pose = EACH // 2, len(MOTION) - len(EXPRESSION)
    motion[:half, :pose] = world.from_latent(random.standard_normal((1, LATENT_DIM)))[:, MOTION_COLUMNS[:pose]]
    low, high = LOW[MOTION_COLUMNS[pose:]], HIGH[MOTION_COLUMNS[pose:]]
    anywhere = random.uniform(low, high, (half, len(EXPRESSION)))
    motion[:half, pose:] = np.where(random.random(anywhere.shape) < 0.5, motion[:half, pose:], anywhere)
    values[:, MOTION_COLUMNS] = np.clip(motion, LOW[MOTION_COLUMNS], HIGH[MOTION_COLUMNS])
    values = world.align(values)
    return np.stack([world.draw(one, 256).image for one in values]), values[:, MOTION_COLUMNS]


@torch.inference_mode()
def _example(face: FaceNet, images: Tensor, motion: np.ndarray) -> dict[str, Tensor]:
    """Inputs and targets of a reader: of its layers; and of each part crops uint8, with the face net's motion."""
    found = face(images)
    crops = {name: Detail(part, 1).crops(images, found.landmarks) for name, part in PARTS.items()}
    crops = {name: (127.5 * (each + 1)).round().clamp(0, 255).to(torch.uint8) for name, each in crops.items()}
    return {"inputs": Reader.inputs(found).half(), "targets": targets(motion), "motion": found.motion, **crops}


def _joined(examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([each[name] for each in examples]) for name in examples[0]}


def gather(face: FaceNet, people: Iterable[int]) -> dict[str, Tensor]:
    """Inputs and targets of a reader for the portraits of people."""
    drawn = (portraits(person) for person in people)
    return _joined([_example(face, to_unit(images), motion) for images, motion in drawn])


def gather_frames(face: FaceNet, clips: Source, batches: int) -> dict[str, Tensor]:
    """The same for single frames of prepared clips, whose motion is what the detectors of real faces read in them.

    Raises ValueError if the coefficients are not those of this package.
    """
    found = (clips.batch(index, EACH) for index in range(batches))
    return _joined([_example(face, batch["clips"][:, 0], prepared_motion(batch)[:, 0]) for batch in found])


def train_reader(run: Run, face: FaceNet, people: int = PEOPLE, clips: Source | None = None) -> Reader:
    """A reader trained on portraits of the world, which are drawn once and kept in the folder, or on prepared clips."""
    trainer = run.trainer
    count = trainer.steps(people)
    kept = trainer.folder / KIND / "portraits.safetensors"
    data = read_tensors(kept)[0] if kept.exists() and clips is None else {}
    if clips is not None:
        data = gather_frames(face, clips, count)
    elif len(data.get("targets", ())) != EACH * count:
        data = gather(face, range(200_000, 200_000 + count))
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(kept, data, {"kind": "portraits"})
    inputs, wanted = data["inputs"].float(), data["targets"]
    spread = wanted.std(0).clamp_min(0.02)  # what hardly varies in a few clips must not outweigh all else
    torch.manual_seed(0)
    reader = Reader((HIDDEN, DETAIL))
    reader.mean.copy_(inputs.mean(0))
    reader.deviation.copy_(inputs.std(0) + 1e-3)
    optimizers = {"reader": torch.optim.AdamW(reader.layers.parameters(), LR, weight_decay=1e-2)}
    steps = trainer.steps(STEPS)

    def step(index: int) -> dict[str, Tensor]:
        torch.manual_seed(index)  # dropout
        chosen = torch.randint(len(inputs), (BATCH,))
        predicted = reader.train()(trainer.to_device(inputs[chosen]))
        loss = ((predicted - trainer.to_device(wanted[chosen])) / spread.to(predicted)).square().mean()
        trainer.descend(loss, optimizers.values())
        return {"error": loss}

    trainer.fit(
        f"{KIND}/reader", {"reader": reader}, optimizers, step, steps, schedule=lambda index: cosine(index, steps)
    )
    for name, detail in reader.details.items():
        assert isinstance(detail, Detail)
        _train_detail(run, name, detail, data, spread)
    return reader.cpu().eval()


def _train_detail(run: Run, name: str, detail: Detail, data: dict[str, Tensor], spread: Tensor) -> None:
    """Teach the network of a part of the face, by its factors and by how they change from frame to frame of a person;
    the gaze of shut eyes counts nothing.

    spread: of the targets [17].
    """
    trainer, factors = run.trainer, detail.part.factors
    columns = [READ.index(one) for one in factors]
    groups = len(data["targets"]) // EACH
    targets, spread = data["targets"][:, columns] / spread[columns], trainer.to_device(spread[columns])
    lids = 0.5 + 0.5 * data["targets"][:, [READ.index(one) for one in ("blink_left", "blink_right")]].mean(1)
    open_ = (1 - lids) * (lids < SHUT)
    weights = torch.stack([open_ if one in GAZE else torch.ones_like(open_) for one in factors], 1)
    optimizers = {name: torch.optim.AdamW(detail.parameters(), LR, weight_decay=1e-2)}
    steps = trainer.steps(DETAIL_STEPS)

    def step(index: int) -> dict[str, Tensor]:
        torch.manual_seed(index)
        chosen = (EACH * torch.randint(groups, (GROUPS,))[:, None] + torch.arange(EACH)).flatten()
        crops, motion, target = data[name][chosen].float() / 127.5 - 1, data["motion"][chosen], targets[chosen]
        if index % 2:
            crops, motion, target = crops.flip(1, -1), mirror(motion, MOTION), mirror(target, factors)
        contrast, light = 1 + 0.15 * torch.randn(len(crops), 1, 1, 1, 1), 0.1 * torch.randn(len(crops), 1, 1, 1, 1)
        y, x = int(torch.randint(-2, 3, ())), int(torch.randint(-3, 4, ()))
        crops = torch.roll(contrast * crops + light, (y, x), (3, 4))  # landmarks are not that exact
        crops, motion, target, counts = map(trainer.to_device, (crops, motion, target, weights[chosen]))
        error = (detail.train()(crops, motion) / spread - target).view(GROUPS, EACH, -1)
        counts = counts.view(GROUPS, EACH, -1)
        mean = (counts * error).sum(1, keepdim=True) / counts.sum(1, keepdim=True).clamp_min(0.1)
        loss = (counts * (error.square() + WITHIN * (error - mean).square())).mean()
        trainer.descend(loss, optimizers.values())
        return {"error": loss}

    trainer.fit(f"{KIND}/{name}", {name: detail}, optimizers, step, steps, schedule=lambda index: cosine(index, steps))


@makes(KIND, needs=("face", "generator"), starts=False)
def recipe(run: Run, *, data: str | None = None, generator: str | None = None, frames: int = FRAMES) -> list[Path]:
    """Find the 32 channels of a StyleGAN2 generator of faces, and train the reader of the built-in people.

    Args:
        data: shards that `stylereel prepare --for expressive` wrote, whose frames the reader learns, as their
            coefficients say; drawn portraits with their true motion if not given.
        generator: weight file of a generator of any known tool; without it that of the folder.
        frames: subjects and frames of the search.
    """
    run.only_from_scratch()
    run.claim(KIND)
    if frames < 1:
        raise ValueError("The search looks at 1 frame or more.")
    if data is not None and generator is not None:
        raise ValueError("Only the built-in generator has a reader that learns from data; leave out --data.")
    clips = None if data is None else open_source(data, size=256, frames=1, arrays=["coefficients"])
    trainer = run.trainer
    if generator is None:
        teacher, face = run.generator(), run.face_net()
        trainer.freeze(teacher, face)
        given, kept = of_family(teacher, face, frames), run.inputs["generator"]
    else:
        other = load_generator_file(generator)
        if not isinstance(other, StyleGAN2):
            raise ValueError(f"{generator} is no StyleGAN2 generator, which expressive needs.")
        teacher, face = other, None
        trainer.freeze(teacher)
        given, kept = of_others(teacher, frames), Path(generator).stem
    perceptual = Perceptual.best(trainer.device)
    file = trainer.folder / KIND / f"sensitivity-{kept[:12]}.safetensors"
    channels, facts = find_channels(
        teacher, given, perceptual, file, None if trainer.dtype == torch.float32 else trainer.dtype
    )
    facts["channels"] = table(channels.cpu(), teacher.style_space)
    facts["perceptual distance"] = perceptual.name
    if face is not None:
        reader = train_reader(run, face.cpu(), clips=clips)
        whole = Channels(ChannelsConfig(channels.config.names, channels.config.size, (HIDDEN, DETAIL)))
        whole.load_state_dict(
            channels.state_dict() | {f"reader.{key}": value for key, value in reader.state_dict().items()}
        )
        about = (WORLD, "Apache-2.0") if data is None else (f"prepared clips of {shown(data)}", None)
        return run.save({KIND: whole}, *about, facts=facts)
    return run.save({KIND: channels}, data=f"random people of {shown(generator)}; no images", licence=None, facts=facts)
