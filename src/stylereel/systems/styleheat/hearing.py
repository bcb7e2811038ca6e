"""How StyleHEAT's sound half learns, in the paper's stages: SyncNet, the audio warper on synthesised triples, and the
audio warper together with a calibration of its own.

| stage | paper | learns from |
|---|---|---|
| `train_expert` | Wav2Lip's SyncNet | faces of the world in and out of step with their sound |
| `points.train_points` | none | where sound takes chin and lips, without images |
| `train_audio` | 1', L_a = L_t + 0.1 L_reg + L_sync | triples, see `talking`; the video warper is frozen |
| `train_audio_joint` | 2', L_c = L_t + L_domain + L_adv + beta_a L_a | the same; calibration and audio warper |

The audio warper sees what the video warper has made of the source, before any repair, and hears 0.4 s; its flow, in the
lower half of the image alone, goes on top. The paper's L_adv needs a discriminator and is left out, as in the quick
settings with video; those with sound also learn from the generator's own state with the target's motion and from the
world's true image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.core.prefetch import Prefetch
from stylereel.core.render import pictures
from stylereel.family.people import grouped_w, motion_codes
from stylereel.generator import StyleGAN2
from stylereel.media.sheet import side_by_side
from stylereel.recipes.run import WORLD, Run, makes, shown
from stylereel.recipes.voices import synthesisers
from stylereel.systems.styleheat import talking
from stylereel.systems.styleheat.expert import FRAMES, Expert, agreement, sync_loss
from stylereel.systems.styleheat.files import (
    AUDIO_CALIBRATION,
    CALIBRATION,
    EXPERT,
    KINDS,
    load_calibration,
    load_expert,
    load_warper,
)
from stylereel.systems.styleheat.losses import (
    MOUTH,
    PIXELS,
    Maps,
    PyramidLoss,
    boxes,
    domain_loss,
    local_loss,
    weighted_l1,
)
from stylereel.systems.styleheat.networks import (
    FLOW_SIZE,
    MEL_BANDS,
    Calibration,
    Moved,
    Warper,
    WarperConfig,
)
from stylereel.systems.styleheat.pairs import TRUE_SIZE, kept
from stylereel.systems.styleheat.points import point_error, train_points
from stylereel.systems.styleheat.sound import Heard, move_by_sound
from stylereel.systems.styleheat.state import State, look, read_state, split
from stylereel.systems.styleheat.training import EXPRESSION_ROWS, POSE_ROWS, Settings, make_optimizers, schedule
from stylereel.train.loop import Average, Trainer
from stylereel.train.report import read_log

AUDIO = WarperConfig(MEL_BANDS, descriptor=96, size=FLOW_SIZE, width=24, widest=64, hidden=48, places=True)
OUTSIDE, SYNC = 0.1, 1.0  # of L_reg and L_sync in L_a
EXPERT_WIDTH = 8
APART = 5  # frames between a face and a sound that do not belong together, at least
TEMPERATURE = 0.1
CHANCE = float(np.log(2))  # the loss of an expert that knows nothing: 0.69
LEFT = 0.9 * CHANCE  # below this it has left it
TALKS = 8  # a file of a pool


@dataclass(frozen=True)
class Hears:
    """The settings of the stages: of the expert, of the audio warper, and of it with the calibration; and where it
    comes from, of `points`.

    In the expert's, batch counts windows of five frames, and pool files of eight people, of which a trial run draws
    fewer; in the others, batch counts frames, five a source, perceptual is the weight of L_a, and detail counts the
    mouth alone.
    """

    expert: Settings
    audio: Settings
    joint: Settings
    points: Settings | None = None


PAPER = Hears(
    expert=Settings(250_000, 64),
    audio=Settings(200_000, 20),
    joint=Settings(20_000, 20, warper_rate=2e-5, perceptual=0.01, local=1.0, domain=0.01),
)
QUICK = Hears(
    expert=Settings(2000, 64, rate=1e-3, contrast=1.0, pool=120),
    points=Settings(2000, 32, rate=1e-3, pool=60, muon=True),
    audio=Settings(100, 10, rate=4e-4, perceptual=0.1, flow=3.0, pool=250, muon=True),
    joint=Settings(
        500, 10, rate=2e-3, warper_rate=2e-4, perceptual=0.1, flow=2.0, state=1.0, exact=8.0, detail=6.0, pool=250,
        muon=True,
    ),
)  # fmt: skip


# --- SyncNet


class Windows(NamedTuple):
    """faces [B, 15, 48, 96] in 0..1; mel [B, 80, 16]; together [B]: 1 where these belong together, 0 where not; own
    [B, 80, 16]: the sound that belongs to the faces."""

    faces: Tensor
    mel: Tensor
    together: Tensor
    own: Tensor


def windows_of(talks: talking.Talk, count: int, random: np.random.Generator) -> Windows:
    """Windows of five frames of talks, half of them with the sound of another time of the same talk.

    By chance they are mirrored, brighter or darker, and as blurred as images of 64 px.
    """
    people, frames = talks.faces.shape[:2]
    who = random.integers(people, size=count)
    first = random.integers(frames - FRAMES + 1, size=count)
    together = random.random(count) < 0.5
    apart = np.abs(first[:, None] - np.arange(frames))
    wrong = np.where(apart >= APART, random.random((count, frames)), -1.0).argmax(1)
    heard = np.where(together, first, wrong)
    faces = torch.stack([talks.faces[i, f : f + FRAMES] for i, f in zip(who, first, strict=True)]).float() / 255
    faces = torch.where(torch.from_numpy(random.random(count) < 0.5)[:, None, None, None, None], faces.flip(-1), faces)
    flat = faces.flatten(1, 2)
    soft = F.interpolate(F.avg_pool2d(flat, 2), scale_factor=2.0, mode="bilinear", align_corners=False)
    flat = torch.where(torch.from_numpy(random.random(count) < 0.5)[:, None, None, None], soft, flat)
    light = torch.from_numpy(random.uniform(0.75, 1.25, (count, 1, 1, 1))).float()
    return Windows(
        (flat * light).clamp(0, 1),
        torch.stack([talks.mel[i, f] for i, f in zip(who, heard, strict=True)]),
        torch.from_numpy(together).float(),
        torch.stack([talks.mel[i, f] for i, f in zip(who, first, strict=True)]),
    )


def contrast_loss(seen: Tensor, own: Tensor, others: Tensor) -> Tensor:
    """Cross-entropy of finding each face's own sound among those of the batch and others; all are embeddings [B, D].

    One yes or no a face is little to learn from, and where the answer is .5 for all there is hardly a gradient. (van
    den Oord et al., "Representation learning with contrastive predictive coding", 2018.)
    """
    scores = seen @ torch.cat([own, others]).T / TEMPERATURE
    return F.cross_entropy(scores, torch.arange(len(seen), device=seen.device))


def train_expert(
    trainer: Trainer,
    settings: Settings,
    width: int = EXPERT_WIDTH,
    start: Expert | None = None,
    talks: talking.Talk | None = None,
) -> Expert:
    """SyncNet by Wav2Lip's recipe (Adam, binary cross-entropy) on faces of the world and their sound, or on talks; with
    `settings.contrast`, by `contrast_loss` as well."""
    torch.manual_seed(9)
    model = start or Expert(width)
    average = Expert(model.config.width)
    optimizer = torch.optim.Adam(model.parameters(), settings.rate)
    steps, share = trainer.steps(settings.steps), trainer.share
    pool = _talks(trainer, settings) if talks is None else lambda _: talks

    def make(index: int) -> Windows:
        random = np.random.default_rng((talking.SEED, 6, index))
        made = windows_of(pool(index), settings.batch, random)
        return Windows(*(each[share[0] :: share[1]] for each in made))

    batches, follow = Prefetch(make, trainer.to_device), Average(model, average, 0.98)

    def step(index: int) -> dict[str, Tensor]:
        batch = batches(index)
        with trainer.autocast():
            seen, heard = model.see(batch.faces).float(), model.hear(batch.mel).float()
        loss = sync_loss(seen, heard, batch.together)
        right = (agreement(seen, heard) > 0.5) == (batch.together > 0.5)
        losses = {"sync": loss, "right": right.float().mean()}
        if settings.contrast:
            with trainer.autocast():
                own = model.hear(batch.own).float()
            losses["contrast"] = contrast_loss(seen, own, heard[batch.together < 0.5])
            loss = loss + settings.contrast * losses["contrast"]
        trainer.descend(loss, [optimizer], None, model)
        follow.update(index)
        return losses

    modules = {"model": model, "average": average}
    trainer.fit("styleheat-syncnet", modules, {"all": optimizer}, step, steps, batch=settings.batch, every=20)
    return average


def _talks(trainer: Trainer, settings: Settings) -> Callable[[int], talking.Talk]:
    """The talks of each step: all of a pool that is drawn once and kept, or new ones."""
    if not settings.pool:
        return lambda index: talking.draw_talks(index, TALKS)
    folder = trainer.folder / "styleheat-talks"
    folder.mkdir(parents=True, exist_ok=True)
    made: list[talking.Talk] = []

    def all_of_them(_: int) -> talking.Talk:
        if not made:
            files = [
                kept(
                    folder / f"{talking.SEED}-{i:04}.safetensors",
                    talking.Talk,
                    partial(talking.draw_talks, i, TALKS),
                    ("mel",),
                )
                for i in range(trainer.steps(settings.pool))
            ]
            made.append(talking.Talk(*(torch.cat(each) for each in zip(*files, strict=True))))
        return made[0]

    return all_of_them


@torch.no_grad()
def judge_expert(expert: Expert, count: int = 6, seed: int = talking.HELD_OUT) -> dict[str, float]:
    """What an expert knows of held-out people and sentences: its loss, and the share of pairs that it calls rightly."""
    expert.eval()
    talks = talking.draw_talks(0, count, seed=seed)
    batch = windows_of(talks, 40 * count, np.random.default_rng(seed))
    seen, heard = expert.see(batch.faces), expert.hear(batch.mel)
    right = (agreement(seen, heard) > 0.5) == (batch.together > 0.5)
    return {"sync": float(sync_loss(seen, heard, batch.together)), "right": float(right.float().mean())}


def left_chance(lines: Sequence[Mapping[str, float]]) -> int | None:
    """The step of a log after which an expert's loss has stayed below `LEFT`: where it left 0.69; None if nowhere."""
    steps = [int(line["step"]) for line in lines]
    high = [number for number, line in enumerate(lines) if line["sync"] >= LEFT]
    after = high[-1] + 1 if high else 0
    return steps[after] if after < len(steps) else None


# --- The audio warper


def new_audio(config: WarperConfig = AUDIO) -> Warper:
    """An audio warper that moves nothing yet."""
    network = Warper(config)
    nn.init.zeros_(network.flow.weight)
    nn.init.zeros_(network.flow.bias)  # type: ignore[arg-type]
    return network


class Lesson(NamedTuple):
    """A step's triples as the generator shows them: w [N, L, D] and joined states [N, C + 3, 64, 64] of the sources,
    how the video warper moves these, the guides, the sounds, the states and images of 64 px of the targets, the
    landmarks [N, 68, 2] of proxies and targets, the true images, and the mask of the mouth [N, 1, 64, 64]; N = B * 5.
    """

    w: Tensor
    joined: Tensor
    moved: Moved
    guide: Tensor
    mel: Tensor
    heard: Tensor
    target: State
    target_images: Tensor
    before: Tensor
    landmarks: Tensor
    truth: Tensor
    mask: Tensor


class Lessons:
    """Makes lessons of triples, with the frozen video warper."""

    def __init__(self, trainer: Trainer, generator: StyleGAN2, video: Warper) -> None:
        self.trainer, self.generator, self.video = trainer, generator, video
        trainer.freeze(generator, video)
        with torch.no_grad():
            z = torch.randn(64, generator.config.z_dim, generator=torch.Generator().manual_seed(0)).to(trainer.device)
            self.deviation = read_state(generator, generator.map(z)).joined().std((0, 2, 3), keepdim=True)
            self.deviation.clamp_min_(1e-3)

    @torch.no_grad()
    def __call__(self, triples: talking.Triples) -> Lesson:
        generator, size = self.generator, self.video.config.size
        frames = triples.mel.shape[1]
        one = grouped_w(generator, triples.source)
        state = read_state(generator, one)
        image = look(generator, state, one, size, dtype=self.trainer.dtype)
        w, joined, image = (each.repeat_interleave(frames, 0) for each in (one, state.joined(), image))
        guide = triples.guide.flatten(0, 1)
        with self.trainer.autocast():
            moved = self.video(image, triples.window.flatten(0, 1), guide)
        moved = Moved(moved.flow.float(), moved.descriptor.float())
        codes = motion_codes(generator, triples.motion.flatten(0, 1).cpu().double().numpy()).clone()
        shown = w.clone()
        for rows in (POSE_ROWS, EXPRESSION_ROWS):
            shown[:, rows] = codes[:, rows]
        target = read_state(generator, shown)
        target_images = look(generator, target, w, FLOW_SIZE, dtype=self.trainer.dtype).float()
        before, landmarks = triples.before.flatten(0, 1), triples.landmarks.flatten(0, 1)
        mask = boxes(landmarks, FLOW_SIZE, [MOUTH])
        truth = triples.truth.flatten(0, 1) / 127.5 - 1
        mel = triples.mel.flatten(0, 1)
        return Lesson(
            w, joined, moved, guide, mel, triples.heard, target, target_images, before, landmarks, truth, mask
        )


def audio_loss(
    heard: Heard, audio: Warper, lesson: Lesson, features: PyramidLoss, expert: Expert | None
) -> dict[str, Tensor]:
    """The parts of L_a: of the warped image inside the mouth's box (L_t), outside of it (L_reg), and in step (L_sync,
    without an expert left out); and the `point_error`, which is none of them."""
    warped = audio.warp(heard.images, heard.flow)
    inside, outside = features.compare(warped, [(lesson.target_images, lesson.mask), (heard.images, 1 - lesson.mask)])
    pixels = weighted_l1(warped, lesson.target_images, lesson.mask)
    parts = {"mouth": inside + PIXELS * pixels, "outside": outside, "pixels": pixels.detach()}
    parts["points"] = point_error(heard.flow, lesson.before, lesson.landmarks)
    if expert is not None:
        large = F.interpolate(warped, (TRUE_SIZE, TRUE_SIZE), mode="bilinear", align_corners=False)
        parts["sync"] = sync_loss(expert.see(talking.see(large).clamp(0, 1)), expert.hear(lesson.heard))
    return parts


def _l_a(parts: Mapping[str, Tensor]) -> Tensor:
    return parts["mouth"] + OUTSIDE * parts["outside"] + SYNC * parts.get("sync", parts["mouth"].new_zeros([]))


def _triples(trainer: Trainer, settings: Settings) -> Prefetch[talking.Triples]:
    if settings.batch % FRAMES:
        raise ValueError(f"A batch of triples counts frames, {FRAMES} a source, so {settings.batch} is none.")
    count, folder = settings.batch // FRAMES, trainer.folder / "styleheat-triples"

    def make(index: int) -> talking.Triples:
        if not settings.pool:
            return talking.draw_triples(index, count, trainer.share)
        folder.mkdir(parents=True, exist_ok=True)
        place = index % settings.pool
        path = folder / f"{talking.SEED}-{place:05}-{count}-{trainer.share[0]}of{trainer.share[1]}.safetensors"
        return kept(
            path, talking.Triples, lambda: talking.draw_triples(place, count, trainer.share), ("guide", "mel", "heard")
        )

    return Prefetch(make, trainer.to_device)


def train_audio(
    trainer: Trainer,
    generator: StyleGAN2,
    video: Warper,
    settings: Settings,
    maps: Maps,
    expert: Expert | None,
    start: Warper | None = None,
    config: WarperConfig = AUDIO,
) -> Warper:
    """Stage 1': the audio warper alone, on what the frozen video warper makes of the sources."""
    torch.manual_seed(10)
    model, average = (start or new_audio(config)).requires_grad_(True), Warper(start.config if start else config)
    lessons, features = Lessons(trainer, generator, video), PyramidLoss(maps, 2)
    if expert is not None:
        trainer.freeze(expert)
    batches, steps = _triples(trainer, settings), trainer.steps(settings.steps)
    optimizers, follow = make_optimizers([(model, settings.rate)], settings.muon), Average(model, average, 0.99)

    def step(index: int) -> dict[str, Tensor]:
        lesson = lessons(batches(index))
        with trainer.autocast():
            heard = move_by_sound(generator, model, lesson.joined, lesson.w, lesson.moved, lesson.mel, trainer.dtype)
        losses = audio_loss(heard, model, lesson, features, expert)
        losses["pixels, not moved"] = weighted_l1(heard.images, lesson.target_images, lesson.mask)
        total = settings.perceptual * _l_a(losses) + settings.flow * losses["points"]
        trainer.descend(total, optimizers.values(), 5.0, model)
        follow.update(index)
        return losses

    trainer.fit(
        "styleheat-audio",
        {"model": model, "average": average},
        optimizers,
        step,
        steps,
        batch=settings.batch // FRAMES,
        schedule=schedule(settings, steps),
        every=20,
        sample=lambda: show(lessons, average, None),
    )
    return average


def listening(calibration: Calibration, numbers: int) -> Calibration:
    """The calibration, conditioned on so many numbers of the sound as well, which change nothing yet."""
    found = Calibration(replace(calibration.config, sound=numbers))
    found.load_state_dict(calibration.state_dict(), strict=False)
    for parameter in found.sound.parameters():
        nn.init.zeros_(parameter)
    return found


class Speaker(nn.Module):
    """Audio warper and calibration, which learn together."""

    def __init__(self, audio: Warper, calibration: Calibration) -> None:
        super().__init__()
        self.audio, self.calibration = audio, calibration

    def forward(
        self, generator: StyleGAN2, joined: Tensor, w: Tensor, moved: Moved, mel: Tensor, guide: Tensor,
        dtype: torch.dtype | None = None,
    ) -> tuple[Heard, Tensor]:  # fmt: skip
        """What the sound makes of states that the video warper moves, see `move_by_sound`, and that repaired."""
        heard = move_by_sound(generator, self.audio, joined, w, moved, mel, dtype)
        descriptor = moved.descriptor if self.calibration.config.descriptor else None
        return heard, self.calibration(heard.warped, descriptor, guide, heard.descriptor).apply(heard.warped)


def train_audio_joint(
    trainer: Trainer,
    generator: StyleGAN2,
    video: Warper,
    audio: Warper,
    calibration: Calibration,
    settings: Settings,
    maps: Maps,
    expert: Expert | None,
) -> tuple[Warper, Calibration]:
    """Stage 2': a calibration, which begins as that of the video, and the audio warper at a rate of its own."""
    torch.manual_seed(11)
    model = Speaker(audio, calibration).requires_grad_(True)
    average = Speaker(Warper(audio.config), Calibration(calibration.config))
    lessons, features = Lessons(trainer, generator, video), PyramidLoss(maps, 2)
    if expert is not None:
        trainer.freeze(expert)
    batches, steps = _triples(trainer, settings), trainer.steps(settings.steps)
    parts: list[tuple[nn.Module, float]] = [
        (model.calibration, settings.rate), (model.audio, settings.warper_rate)
    ]  # fmt: skip
    optimizers, follow = make_optimizers(parts, settings.muon), Average(model, average, 0.99)

    def step(index: int) -> dict[str, Tensor]:
        lesson = lessons(batches(index))
        with trainer.autocast():
            heard, calibrated = model(
                generator, lesson.joined, lesson.w, lesson.moved, lesson.mel, lesson.guide, trainer.dtype
            )
        losses: dict[str, Tensor] = {}
        terms = [weight * value for weight, value in _terms(lesson, heard, calibrated.float(), losses)]
        trainer.descend(torch.stack(terms).sum(), optimizers.values(), 5.0, model)
        follow.update(index)
        return losses

    def _terms(
        lesson: Lesson, heard: Heard, calibrated: Tensor, losses: dict[str, Tensor]
    ) -> Iterator[tuple[float, Tensor]]:
        detail = 1 + (settings.detail - 1) * lesson.mask
        if settings.perceptual:
            found = audio_loss(heard, model.audio, lesson, features, expert)
            losses |= found
            yield settings.perceptual, _l_a(found)
            yield settings.flow, found["points"]
        if settings.state:
            target = lesson.target.joined() / lessons.deviation
            losses["state"] = weighted_l1(calibrated / lessons.deviation, target, detail)
            yield settings.state, losses["state"]
        if settings.exact:
            size = min(TRUE_SIZE, generator.resolution)
            images = look(generator, split(calibrated), lesson.w, size, dtype=trainer.dtype).float()
            truth = lesson.truth if size == TRUE_SIZE else F.adaptive_avg_pool2d(lesson.truth, size)
            large = F.interpolate(detail, (size, size), mode="bilinear", align_corners=False)
            losses["exact"] = weighted_l1(images, truth, large)
            yield settings.exact, losses["exact"]
        if settings.local or settings.domain:
            images = look(generator, split(calibrated), lesson.w, FLOW_SIZE, dtype=trainer.dtype).float()
            if settings.local:
                losses["local"] = local_loss(features, images, lesson.target_images, lesson.mask)
                yield settings.local, losses["local"]
            if settings.domain:
                with torch.no_grad():
                    before = look(generator, split(heard.warped), lesson.w, FLOW_SIZE, dtype=trainer.dtype).float()
                losses["domain"] = domain_loss(features, images, before, lesson.mask)
                yield settings.domain, losses["domain"]

    trainer.fit(
        "styleheat-audio-joint",
        {"model": model, "average": average},
        optimizers,
        step,
        steps,
        batch=settings.batch // FRAMES,
        schedule=schedule(settings, steps),
        every=20,
        sample=lambda: show(lessons, average.audio, average.calibration),
    )
    return average.audio, average.calibration


@torch.no_grad()
def show(lessons: Lessons, audio: Warper, calibration: Calibration | None, count: int = 2) -> np.ndarray:
    """Images of held-out triples: proxies, what the sound makes of them, that repaired, the targets and the true
    images."""
    generator = lessons.generator
    lesson = lessons(lessons.trainer.to_device(talking.draw_triples(0, count, seed=talking.HELD_OUT)))
    heard = move_by_sound(generator, audio, lesson.joined, lesson.w, lesson.moved, lesson.mel, None)
    states = [split(audio.warp(lesson.joined, lesson.moved.flow)), split(heard.warped)]
    if calibration is not None:
        descriptor = lesson.moved.descriptor if calibration.config.descriptor else None
        states.append(split(calibration(heard.warped, descriptor, lesson.guide, heard.descriptor).apply(heard.warped)))
    rows = [look(generator, state, lesson.w, TRUE_SIZE) for state in [*states, lesson.target]]
    return np.concatenate([side_by_side(list(pictures(row))) for row in [*rows, lesson.truth]])


# --- The command


_NEEDS = "face", "generator", KINDS["video"], CALIBRATION


@makes(EXPERT, KINDS["audio"], AUDIO_CALIBRATION, needs=_NEEDS)
def recipe(
    run: Run,
    *,
    data: str | None = None,
    preset: Literal["quick", "paper"] = "quick",
    stage: Literal["all", "syncnet", "audio"] = "all",
) -> list[Path]:
    """Train StyleHEAT's half with sound: SyncNet, then the audio warper, then it with a calibration of its own.

    Args:
        data: a folder of clips with sound, for SyncNet; people of the world who talk if not given.
        preset: quick settings for the built-in family, which also learn from where the world knows that sound takes
            chin and lips, the generator's own states and the world's true images; or the paper's losses. The authors
            published no training with sound.
        stage: all in order; syncnet alone, which learns whether lips are in step; or audio, the others on synthesised
            triples of the world's people, with the SyncNet in the folder, or the built-in one.
    """
    if data is not None and stage != "syncnet":
        raise ValueError(
            "The triples of the audio warper are made of the world's people; give --data to --stage syncnet."
        )
    chosen = {"quick": QUICK, "paper": PAPER}[preset]
    files = {"syncnet": [EXPERT], "audio": [KINDS["audio"], AUDIO_CALIBRATION]}
    run.claim(*(sum(files.values(), []) if stage == "all" else files[stage]))
    for name in _NEEDS:
        run.weight_file(name)  # so that each card names it
    voices = f"{WORLD}; speech of the synthesisers {', '.join(synthesisers())}"
    made: list[Path] = []
    if stage != "audio":
        talks = None if data is None else talking.read_talks(data)
        first = run.first(EXPERT)
        start = None if first is None else load_expert(first)
        expert = train_expert(run.trainer, chosen.expert, EXPERT_WIDTH if preset == "quick" else 32, start, talks)
        step = left_chance(read_log(run.folder / EXPERT / "log.jsonl"))
        facts = {"left 0.69 at step": step, "held out": judge_expert(expert)}
        about = (voices, "Apache-2.0") if data is None else (f"clips of {shown(data)}", None)
        made += run.save({EXPERT: expert}, *about, facts)
    if stage == "syncnet":
        return made
    expert = load_expert(run.weight_file(EXPERT))
    face, generator = run.face_net(), run.generator()
    run.trainer.freeze(face)
    maps, video = face.trunk.maps, load_warper(run.weight_file(KINDS["video"]))
    begun = run.first(KINDS["audio"])
    audio = None if begun is None else load_warper(begun, "audio")
    if audio is None and chosen.points is not None:
        torch.manual_seed(10)
        audio = train_points(run.trainer, generator, video, new_audio(), chosen.points)
    audio = train_audio(run.trainer, generator, video, chosen.audio, maps, expert, audio)
    calibration = listening(load_calibration(run.weight_file(CALIBRATION)), audio.config.descriptor)
    audio, calibration = train_audio_joint(
        run.trainer, generator, video, audio, calibration, chosen.joint, maps, expert
    )
    return made + run.save({KINDS["audio"]: audio, AUDIO_CALIBRATION: calibration}, voices)
