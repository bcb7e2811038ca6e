"""StyleVideoGAN: its exact rules, its verbs, its training loop and its commands, on tiny models."""

import math
import resource
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_encoders import save_checkpoint, small_encoder

import stylereel
from stylereel import world
from stylereel.cli import main
from stylereel.commands.drive import VERBS
from stylereel.core.builtin import builtin
from stylereel.core.latents import FACE, Codes, Identity, Motion
from stylereel.core.record import sha256
from stylereel.core.render import portrait, render
from stylereel.core.weights import save_module
from stylereel.family.nets import load_face
from stylereel.generator import StyleGAN2, StyleGAN2Config
from stylereel.invert.networks import MeanCode
from stylereel.media.video import VideoWriter
from stylereel.metrics.motion import loop
from stylereel.systems import sources, verb_flags
from stylereel.systems.stylevideogan import StyleVideoGAN, VideoConfig, VideoGenerator, load_model, study
from stylereel.systems.stylevideogan.codes import CLIPS, WorldClip, distinct_rows
from stylereel.systems.stylevideogan.networks import (
    KIND,
    ORDERS,
    Critic,
    Wandering,
    angle_penalty,
    gradient_penalty,
)
from stylereel.systems.stylevideogan.training import Ends, Moments, Recipe, Spread, finish, sample_path, settle, train
from stylereel.train.loop import Trainer
from stylereel.world.factors import LATENT_DIM

RECIPE = Recipe(epochs=2, least=1, batch=8, width=16, frames=8)


def tiny(reduced: bool = False, rows: tuple[int, ...] = (0, 0, -1, 1), seed: int = 0) -> tuple[VideoGenerator, Codes]:
    """A model with the statistics of 60 codes that move as its rows say."""
    torch.manual_seed(seed)
    config = VideoConfig(rows, 6, "25/1", "fingerprint", width=16, frames=8, noise=5, components=4, reduced=reduced)
    moving = torch.randn(60, 2, 6).cumsum(0) / 5
    still = torch.randn(len(rows), 6)
    w = torch.stack([moving[:, head] if head >= 0 else still[row].expand(60, 6) for row, head in enumerate(rows)], 1)
    model = VideoGenerator(config)
    model.learn_statistics(w)
    return model.eval(), Codes(w.contiguous(), "fingerprint", Fraction(25), torch.zeros(60, 4))


def noise(model: VideoGenerator, batch: int = 3, frames: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    size = model.config.noise
    return torch.randn(batch, size, requires_grad=True), torch.randn(batch, frames - 1, size, requires_grad=True)


# --- exact rules of the paper


def test_first_frame_depends_on_the_start_code_alone() -> None:
    model, _ = tiny()
    first, others = noise(model)
    codes = model(first, others)
    to_first, to_noise = torch.autograd.grad(codes[:, 0].square().sum(), (first, others), allow_unused=True)
    assert to_first.abs().min() > 0 and (to_noise is None or not to_noise.any())
    (to_noise,) = torch.autograd.grad(model(first, others)[:, 3].square().sum(), others)
    assert to_noise[:, :3].abs().sum() > 0 and not to_noise[:, 3:].any(), "frame 3 follows from noise up to it"


def test_start_code_is_the_first_state_of_the_fourth_cell() -> None:
    model, _ = tiny()
    first, others = noise(model)
    assert torch.equal(model.recurrence(first, others)[:, 0], first)
    assert torch.equal(model.recurrence.start(first)[3], first)


def test_angle_penalty_is_zero_where_noise_dominates_and_pushes_the_angle_up() -> None:
    first, others = torch.ones(2, 5, requires_grad=True), torch.ones(2, 7, 5, requires_grad=True)

    def penalty(of_first: float, of_noise: torch.Tensor | float) -> torch.Tensor:
        distance = of_first * first.sum(1) / math.sqrt(5) + of_noise * others.sum((1, 2)) / math.sqrt(35)
        return angle_penalty(distance, first, others)

    assert penalty(1.0, 1.001) == 0 and penalty(0.0, 1.0) == 0
    assert penalty(1.0, 1e-9).item() == pytest.approx((math.pi / 4) ** 2, rel=1e-4)
    assert penalty(1.0, 0.5).item() == pytest.approx((math.pi / 4 - math.atan(0.5)) ** 2, rel=1e-4)
    weight = torch.tensor(0.5, requires_grad=True)
    penalty(1.0, weight).backward()
    assert weight.grad is not None and weight.grad < 0, "descent makes the noise count more"


def test_gradient_penalty_is_two_sided_around_length_one() -> None:
    class Linear(Critic):
        slope: float = 1.0

        def forward(self, seen: torch.Tensor) -> torch.Tensor:
            return seen.flatten(1).sum(1, keepdim=True) * self.slope / math.sqrt(seen[0].numel())

    model, _ = tiny()
    critic = Linear(model.config)
    real, fake = torch.randn(3, 8, model.config.size), torch.randn(3, 8, model.config.size)
    for slope, wanted in ((1.0, 0.0), (0.0, 1.0), (3.0, 4.0)):
        critic.slope = slope
        assert gradient_penalty(critic, real, fake, torch.rand(3, 1, 1)).item() == pytest.approx(wanted, abs=1e-5)


def test_offset_keeps_the_training_person_and_brings_all_that_lies_outside() -> None:
    model, codes = tiny()
    assert not model.offset(model.mean).any(), "the training person's own mean needs no offset"
    person = torch.randn(4, 6)
    offset = model.offset(person)
    assert model.coordinates((model.mean + offset)[None]).abs().max() < 1e-5, "the offset holds nothing of the motion"
    again = model.within(model.coordinates(person[None]))[0] + offset
    assert torch.allclose(again, person, atol=1e-5)


def test_offset_leaves_the_motion_behind_that_people_hardly_vary_by() -> None:
    """People who differ along the motion by looks: told how they are spread, the offset keeps the looks."""
    model, codes = tiny()
    looks = torch.randn(6, 6) * torch.tensor([3.0, 3, 3, 0.05, 0.05, 0.05])
    people = model.mean + (torch.randn(20, 1, 6) @ looks).expand(-1, 4, -1)
    weight = torch.linalg.inv((looks.T @ looks).double() + 1e-3 * torch.eye(6)).float()
    assert model.offset(model.mean, weight).abs().max() < 1e-5
    moved = codes.w[::3] - model.mean  # motions of the clip, on people
    errors = {
        name: torch.stack(
            [(offset(who + move) - (who - model.mean)).square().mean() for who, move in zip(people, moved)]
        ).mean()
        for name, offset in {"paper": model.offset, "weighed": lambda w: model.offset(w, weight)}.items()
    }
    assert errors["weighed"] < 0.7 * errors["paper"]


@pytest.mark.parametrize("reduced", [False, True])
def test_heads_begin_with_the_statistics_of_the_codes(reduced: bool) -> None:
    model, codes = tiny(reduced)
    settle(model, batches=300)  # of 8 frames
    w = model.codes(torch.cat([sample_path(model, seed, 300)[20:] for seed in range(60)]))
    assert torch.allclose(w.mean(0), codes.w.mean(0), atol=0.35 * float(codes.w.std()))
    assert torch.equal(w[:, 0], w[:, 1]) or reduced, "rows that are equal in the codes stay equal"
    assert torch.allclose(w[:, 2], codes.w[0, 2].expand(len(w), -1), atol=1e-5), "still rows stay still"
    moving = [0, 1, 3]
    assert 0.6 < (w[:, moving].std(0) / codes.w[:, moving].std(0)).mean() < 1.4


def test_no_sample_leaves_the_range_of_its_clip() -> None:
    model, codes = tiny(reduced=True)
    real = model.made_of(codes.w)
    assert torch.equal(model.low, real.amin(0)) and torch.equal(model.high, real.amax(0))
    with torch.no_grad():
        path = sample_path(model, 1, 300)
        model.high.copy_(model.mapper(path).mean(0))
        made = model.made_of(model.codes(path))
    assert torch.allclose(made.amax(0), model.high, atol=1e-3)
    assert torch.allclose(real @ model.back, model.coordinates(codes.w), atol=1e-4)


def test_rows_are_told_apart() -> None:
    assert distinct_rows(tiny()[1].w) == (0, 0, -1, 1)
    with pytest.raises(ValueError, match="never change"):
        distinct_rows(torch.ones(5, 2, 3))


@pytest.mark.parametrize("reduced", [False, True])
def test_critic_sees_small_and_fast_motion_as_large_as_slow_and_wide_one(reduced: bool) -> None:
    config = VideoConfig((0,), 4, "25/1", "x", width=16, frames=8, noise=5, components=4, reduced=reduced)
    model, critic = VideoGenerator(config), Critic(config)
    time = torch.arange(400.0)
    tiny_noise = 1e-3 * torch.randn(400, 2)
    track = torch.cat([30 * torch.sin(time / 20)[:, None], 6 * torch.sin(time)[:, None], tiny_noise], 1)
    model.learn_statistics(track[:, None])
    real = model.made_of(track[:, None])
    critic.learn_scales(real)
    seen = critic.inputs(real[None])[0].unflatten(1, (ORDERS, 4))
    for order in range(ORDERS):
        assert not seen[:order, order].any(), "no difference before there are frames for it"
        deviation = seen[order:, order].std(0).sort().values
        assert deviation[2:].tolist() == pytest.approx([1, 1], abs=0.1) and deviation[:2].max() < 0.01
    trembling = critic.inputs(model.made_of((track + 0.1 * torch.randn(400, 4))[:, None])[None])[0].unflatten(
        1, (ORDERS, 4)
    )
    last = ORDERS - 1
    assert (trembling - seen)[last:, last].std(0).max() > 10, "trembling of a slow coordinate stands out"


def test_fresh_sequences_have_moments_of_their_own() -> None:
    """Fresh sequences that are too wide and others that are too narrow are told, though together they would do."""
    model, codes = tiny(reduced=True)
    real = model.made_of(codes.w)
    critic = Critic(model.config)
    critic.learn_scales(real)
    whole = critic.inputs(real[None])  # the clip as one sequence has the clip's moments, exactly
    moments = Moments(critic, real)
    assert moments([whole, whole])[0] == pytest.approx(0, abs=1e-6)
    seen = torch.cat([1.3 * whole, whole, (2 - 1.3**2) ** 0.5 * whole]).requires_grad_(True)
    for _ in range(20):
        told, loss = moments(seen.split([1, 2]))
    assert told > 1e-3
    (slope,) = torch.autograd.grad(loss, seen)
    assert (slope[0] * whole[0]).sum() > 0, "the fresh one should shrink"
    assert (slope[1:] * whole).sum() < 0, "the others should grow"


def test_jitter_is_aimed_at_a_share_of_the_clips() -> None:
    model, codes = tiny(reduced=True)
    real = model.made_of(codes.w)
    critic = Critic(model.config)
    critic.learn_scales(real)
    whole = critic.inputs(real[None])
    moments = Moments(critic, real, (0.5, 0.5), aim=0.9)
    calm = torch.cat([*whole.chunk(ORDERS, 2)[:-1], 0.9 * whole.chunk(ORDERS, 2)[-1]], 2)
    for _ in range(20):
        told, _ = moments([whole, calm])
    each = (moments.running - moments.wanted).square().sum((1, 2, 3))
    assert told > 0 and each[1] < 1e-6 * each[0], "and each kind is told for itself"


def test_sequences_know_how_old_they_are() -> None:
    ends = Ends(tiny()[0].recurrence, 6)
    random = torch.Generator().manual_seed(0)
    for _ in range(3):
        states, ages = ends.draw(2, random)
        assert states.shape == (4, 4, 5) and ages.shape == (4,)
        ends.keep(torch.cat([torch.full((4, 2, 5), -1.0), states + 1], 1), ages)
        assert ends.ages[:2].tolist() == [1, 1] and torch.equal(ends.ages[2:], ages + 1)
        assert torch.equal(ends.states[:, 2:], states + 1)


def test_distribution_of_the_clip_is_left_and_a_tail_that_is_too_short_is_pulled_outwards() -> None:
    """Rare events, such as blinks, are the tail of a distribution."""
    torch.manual_seed(0)
    critic = Critic(VideoConfig((0,), 4, "25/1", "x", width=16, frames=8, noise=5, components=4))
    real = torch.randn(4000, 4) + 4 * (torch.rand(4000, 4) < 0.05)
    critic.learn_scales(real)
    spread = Spread(critic, real)
    whole = critic.inputs(real[None])
    same = whole.clone().requires_grad_(True)
    for _ in range(100):
        told = spread(same)
    (slope,) = torch.autograd.grad(told, same)
    assert told < 1e-3
    short = torch.where(whole > 1.5, 1.5 + 0.3 * (whole - 1.5), whole).requires_grad_(True)
    for _ in range(100):
        told = spread(short)
    (pull,) = torch.autograd.grad(told, short)
    assert told > 0.05
    tail = (whole > 1.8)[..., :4]
    assert (pull[..., :4][tail] < 0).all(), "descent moves the tail outwards"
    assert pull[..., :4][~tail].abs().mean() < 0.1 * pull[..., :4][tail].abs().mean(), "and leaves the rest"
    assert slope.abs().max() < 0.2 * pull.abs().max()


def test_motion_begins_smooth_and_goes_on_as_wide_as_its_start_codes() -> None:
    torch.manual_seed(0)
    recurrence = VideoGenerator(VideoConfig((0,), 8, "25/1", "x", width=8, noise=32)).recurrence
    with torch.no_grad():
        path = recurrence(torch.randn(16, 32), torch.randn(16, 199, 32))[:, 100:]
    assert 0.5 < path.std() < 1 and path.diff(dim=1).std() < 0.15 * path.std()


def test_sequence_that_goes_on_is_the_longer_sequence() -> None:
    model, _ = tiny()
    first, others = noise(model, frames=15)
    path, end = model.recurrence.go_on(model.recurrence.start(first), others[:, :7])
    again, _ = model.recurrence.go_on(end, others[:, 7:])
    assert torch.allclose(torch.cat([path, again[:, 1:]], 1), model.recurrence(first, others), atol=1e-6)


def test_cells_side_by_side_are_those_one_after_the_other() -> None:
    recurrence = tiny()[0].recurrence
    for frames in (1, 2, 7):  # fewer than cells, too
        states, others = torch.randn(4, 3, 5), torch.randn(3, frames, 5)
        path, end = recurrence.go_on(states, others)
        expected, last = recurrence.cells(others, states)
        assert torch.allclose(path[:, 1:], expected, atol=1e-6) and torch.allclose(end, last, atol=1e-6)
        assert torch.equal(path[:, 0], states[-1])


def test_wandering_is_normalised_by_its_own_past() -> None:
    torch.manual_seed(0)
    wandering = Wandering(5, decay=0.9)
    for _ in range(200):
        path = torch.randn(64, 8, 5) * torch.tensor([1.0, 3.0, 0.1, 1.0, 1.0]) + torch.arange(8.0)[:, None]
        distance = wandering(path)
    assert distance.mean().item() == pytest.approx(5, rel=0.3)


def test_state_dict_keys_and_every_parameter_learns() -> None:
    model, _ = tiny()
    critic, wandering = Critic(model.config), Wandering(model.config.noise)
    kinds = {key.rsplit(".", 1)[0] for key in model.state_dict()}
    assert {"recurrence.hallucinator.8", "recurrence.cells", "mapper.trunk.0", "mapper.heads.2"} <= kinds
    assert {"mean", "basis", "deviations"} <= set(model.state_dict())
    assert model.recurrence.cells.weight_hh_l3.shape == (15, 5)
    model.train()
    first, others = noise(model, 8)
    path = model.recurrence(first, others)
    score = critic(critic.inputs(model.frames(path))).mean() + angle_penalty(wandering(path), first, others)
    score.backward()
    for name, parameter in [*model.named_parameters(), *critic.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        if "hallucinator.7" not in name and "hallucinator.6" not in name and not name.endswith("bias"):
            assert parameter.grad.any(), name


# --- sampling


def test_longer_sample_begins_with_the_same_frames_whatever_the_chunk() -> None:
    model, _ = tiny()
    long = sample_path(model, 3, 40)
    assert torch.equal(sample_path(model, 3, 11), long[:11])
    for chunk in (1, 3, 8):
        assert torch.allclose(sample_path(model, 3, 40, chunk=chunk), long, atol=1e-6)
    assert not torch.equal(sample_path(model, 4, 11), long[:11])


def test_starts_between_two_seeds_lie_on_the_arc() -> None:
    model, _ = tiny()
    ends = [sample_path(model, seed, 1)[0] for seed in (3, 4)]
    for share, end in zip((0.0, 1.0), ends):
        assert torch.allclose(sample_path(model, 3, 1, 4, share)[0], end, atol=1e-5)
    between = sample_path(model, 3, 1, 4, 0.5)[0]
    assert min(map(float, map(torch.norm, ends))) * 0.9 < between.norm() < max(map(float, map(torch.norm, ends))) * 1.1
    assert torch.equal(sample_path(model, 3, 5, 3, 0.5), sample_path(model, 3, 5))


def test_an_hour_takes_little_memory() -> None:
    model, _ = tiny()
    sample_path(model, 1, 2000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = sample_path(model, 1, 30_000)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert path.shape == (30_000, 5) and path.isfinite().all()
    assert grown < 4 * path.numel() * path.element_size() + 2**24


# --- the system on the smallest generator


@pytest.fixture(scope="module")
def system() -> StyleVideoGAN:
    torch.manual_seed(0)
    generator = StyleGAN2(StyleGAN2Config(resolution=8, z_dim=6, w_dim=6, channel_base=64, channel_max=16))
    assert generator.num_ws == 4
    model, _ = tiny()
    return StyleVideoGAN(generator, MeanCode(generator), {"own": model}, [])


def test_sample_renders_the_same_frames_in_any_chunk_and_for_any_person(system: StyleVideoGAN) -> None:
    person, motion = system.sample(3, 9, model="own")
    assert str(motion.kind) == "stylevideogan-own" and motion.rate == 25 and len(motion) == 9
    frames = [np.stack(list(render(system, person, motion, chunk=chunk))) for chunk in (1, 3, 8)]
    assert all(np.abs(each.astype(int) - frames[0]).max() <= 1 for each in frames)
    assert np.array_equal(next(render(system, person, motion).start_at(5)), frames[2][5])
    other = np.stack(list(render(system, system.identify(5), motion)))
    assert not np.array_equal(other, frames[0])
    w = system.codes(system.identify(5), motion) - system.codes(person, motion)
    assert torch.allclose(w, w[:1].expand_as(w), atol=1e-5), "one motion over two people differs by a constant"


def test_motion_is_rendered_through_a_tuned_generator(system: StyleVideoGAN) -> None:
    person, motion = system.sample(3, 2, model="own")
    name = next(name for name, _ in system.generator.named_parameters() if name.endswith("torgb.bias"))
    delta = {name: torch.full_like(dict(system.generator.named_parameters())[name], 0.7)}
    plain, tuned = (np.stack(list(render(system, who, motion))) for who in (person, replace(person, delta=delta)))
    assert tuned.mean() > plain.mean() + 5


def test_identities_come_from_seeds_codes_and_files(system: StyleVideoGAN, tmp_path: Path) -> None:
    _, codes = tiny()
    assert torch.equal(system.identify(codes).w, codes.w[0])
    system.identify(5).save(tmp_path / "five.safetensors")
    assert torch.equal(system.identify(Identity.load(tmp_path / "five.safetensors")).w, system.identify(5).w)
    with pytest.raises(ValueError, match="another generator"):
        system.identify(replace(codes, w=codes.w[:, :3]))


def test_mistakes_are_one_sentence(system: StyleVideoGAN, tmp_path: Path) -> None:
    for wrong in ({"seed": -1}, {"num_frames": 0}, {"share": 2.0, "towards": 1}, {"model": "walking"}):
        with pytest.raises(ValueError, match=r"^[A-Z][^.]*(2\.0)?[^.]*\.$"):
            system.sample(**{"seed": 1, "num_frames": 5, "model": "own", **wrong})
    with pytest.raises(ValueError, match="stylevideogan does not offer moving a portrait"):
        verb_flags(system, VERBS)
    with pytest.raises(ValueError, match="takes motion of kind"):
        render(system, system.identify(1), Motion(np.zeros((2, 1)), FACE, ("a",), Fraction(25), np.zeros((2, 4))))


def test_models_are_saved_and_checked_against_the_generator(system: StyleVideoGAN, tmp_path: Path) -> None:
    model, _ = tiny()
    path = tmp_path / "stylevideogan-mine.safetensors"
    save_module(path, KIND, model)
    again = load_model(path)
    assert again.config == model.config
    for name, value in model.state_dict().items():
        assert torch.allclose(again.state_dict()[name].float(), value.float(), rtol=2e-3, atol=2e-3), name
    one = StyleVideoGAN(system.generator, system.encode, {}, [path])
    with pytest.raises(ValueError, match="another generator"):
        one.sample(1, 2, model=str(path))


# --- training and the data line


def test_training_repeats_itself_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    codes = tiny()[1]
    trainer = Trainer(tmp_path, precision="32", device="cpu")
    whole = train(trainer, codes, RECIPE)
    again = train(Trainer(tmp_path / "two", precision="32", device="cpu"), codes, RECIPE)
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), f"the same seed gives the same weights: {name}"
    counts = {int(value) for name, value in whole.state_dict().items() if name.endswith("num_batches_tracked")}
    assert counts == {40}, "after half the steps batch normalisation keeps what the batches of settle gave"
    log = (tmp_path / KIND / "log.jsonl").read_text()
    assert (tmp_path / KIND / "samples.png").exists() and log
    finished = train(trainer, codes, RECIPE)
    assert torch.equal(finished.basis, whole.basis) and (tmp_path / KIND / "log.jsonl").read_text() == log
    with pytest.raises(ValueError, match="16 frames or more"):
        train(trainer, replace(codes, w=codes.w[:10], placement=codes.placement[:10]), RECIPE, "short")


def test_finish_widens_a_motion_that_is_too_narrow(tmp_path: Path) -> None:
    model, codes = tiny(reduced=True)
    settle(model)
    real = model.made_of(codes.w)
    with torch.no_grad():
        model.mapper.heads[-1].get_parameter("weight").mul_(0.5)

    def width(model: VideoGenerator) -> float:
        with torch.no_grad():
            made = torch.cat([model.made_of(model.codes(sample_path(model, seed, 300))) for seed in range(8)])
        return float((made.std(0) / real.std(0)).mean())

    before = width(model)
    trainer = Trainer(tmp_path, precision="32", device="cpu")
    finished = finish(trainer, model, real, replace(RECIPE, rate=0.003), 200)
    assert abs(width(finished) - 1) < 0.5 * abs(before - 1)
    assert not any(parameter.requires_grad for parameter in finished.parameters())


def test_world_clips_have_exact_codes_that_move_without_trembling() -> None:
    generator = StyleGAN2.load(builtin("generator")).eval().requires_grad_(False)
    clip = WorldClip(7, 5, "talking", frames=60)
    codes = clip.codes(generator, builtin("generator"))
    assert distinct_rows(codes.w) == (0, 0, -1, -1, 1, 1, *[-1] * 8)
    pose = codes.w[:, 0]
    assert (pose[1:] - pose[:-1]).norm(dim=1).max() < 0.3 * (pose - pose.mean(0)).norm(dim=1).mean()
    assert codes.generator == sha256(builtin("generator")) and set(CLIPS) == {"talking", "listening", "expressions"}


def test_no_mouth_moves_the_crop_of_the_data_line() -> None:
    from stylereel.faces import placement

    values = np.tile(world.neutral(), (40, 1))
    values[::3, world.MOTION.index("jaw")] = 1.0
    points = np.stack([world.project_landmarks(each)[0] * 256 for each in values])
    canonical = placement.place(points, Fraction(25), seconds=0.01)
    rows = placement.to_builtin_framing(placement.place_by_eyes(points, Fraction(25)), canonical)
    assert np.ptp(canonical, axis=0)[:3].max() > 1, "the built-in framing follows the mouth"
    assert np.ptp(rows, axis=0).max() < 1e-3 and np.abs(rows - np.median(canonical, axis=0)).max() < 1e-2


def test_loop_test_tells_a_repeated_path() -> None:
    path = sample_path(tiny()[0], 1, 60).numpy()
    assert loop(np.tile(path, (4, 1))).loops


def test_commands_train_on_codes_and_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "generator.safetensors"
    torch.manual_seed(0)
    generator = StyleGAN2(StyleGAN2Config(resolution=8, z_dim=6, w_dim=6, channel_base=64, channel_max=16))
    generator.save(file)
    replace(tiny()[1], generator=sha256(file)).save(tmp_path / "me.safetensors")
    run = ["train", "stylevideogan", "--data", str(tmp_path / "me.safetensors"), "--folder", str(tmp_path / "runs")]
    assert main([*run, "--scale", "0.002", "--device", "cpu"]) == 0, capsys.readouterr().err
    assert main([*run, "--scale", "0.002", "--device", "cpu", "--seed", "1"]) == 2
    assert "holds a run with seed 0, not 1" in capsys.readouterr().err
    model = tmp_path / "runs" / "stylevideogan-me.safetensors"
    arguments = ["sample", "stylevideogan", "--generator", str(file), "--model", str(model), "--seed", "3"]
    out = tmp_path / "clip.mkv"
    assert main([*arguments, "--frames", "12", "--identity", "5,6", "--out", str(out)]) == 0, capsys.readouterr().err
    assert "12 frames of 18 x 8 at 25 frames a second" in capsys.readouterr().out
    assert out.with_suffix(".json").exists() and len(Motion.load(out.with_suffix(".safetensors"))) == 12
    assert main(["sample", "stylemask", "--seed", "1", "--out", str(out)]) == 2
    assert "stylemask does not offer sample" in capsys.readouterr().err
    assert main(["train", "stylevideogan", "--preset", "paper"]) == 2


def test_a_clip_is_learned_by_official_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A small encoder and generator under the official names, in one file, through the commands of the page."""
    encoder = small_encoder(offsets=True)
    official = save_checkpoint(tmp_path / "official.pt", encoder, {"encoder_type": "Encoder4Editing"})
    clip, runs, out = tmp_path / "clip.mp4", tmp_path / "runs", tmp_path / "sample.mp4"
    values = np.tile(world.neutral(), (52, 1))
    values[:, world.MOTION_COLUMNS] = world.natural_motion(3, 52, Fraction(25))
    with VideoWriter(clip, Fraction(25)) as writer:
        for each in world.align(values):
            writer.write(world.draw(each, 128).image)
    files = ["--encoder", str(official)]
    run = ["train", "stylevideogan", "--data", str(clip), *files, "--folder", str(runs), "--scale", "0.002"]
    assert main([*run, "--precision", "32", "--device", "cpu"]) == 0, capsys.readouterr().err
    (kept,) = (runs / KIND).glob("clip-*-codes.safetensors")
    codes, model = Codes.load(kept), load_model(runs / f"{KIND}-clip.safetensors")
    assert codes.w.shape == (52, 8, 32) and codes.generator == sha256(official) == model.config.generator
    chosen = ["--generator", str(official), *files, "--model", str(runs / f"{KIND}-clip.safetensors")]
    arguments = ["sample", "stylevideogan", *chosen, "--seed", "3", "--frames", "10", "--out", str(out)]
    assert main(arguments) == 0, capsys.readouterr().err
    assert "10 frames of 32 x 32 at 25 frames a second" in capsys.readouterr().out
    assert main(["sample", "stylevideogan", *chosen[4:], "--seed", "3", "--out", str(out)]) == 2
    assert "trained on codes of another generator" in capsys.readouterr().err


def test_the_study_goes_on_and_judges_every_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    generator = StyleGAN2(StyleGAN2Config(resolution=32, z_dim=LATENT_DIM, w_dim=8, channel_base=64, channel_max=16))
    generator.save(tmp_path / "generator.safetensors")
    monkeypatch.setattr(sources, "builtin", lambda name: tmp_path / f"{name}.safetensors")
    for name, value in {"SENTENCE": 17, "LOOP_FRAMES": 60, "SETTLED": 5}.items():
        monkeypatch.setattr(study, name, value)
    small: dict[str, Any] = {"trainings": 1, "steps": 2, "short": 2, "long": 1, "long_frames": 32, "people": 2}
    files = study.reproduce(out=str(tmp_path / "report"), **small)
    report = files[0].read_text()
    assert [path.name for path in files] == ["report.md", "report.json"] and "with the angle penalty" in report
    assert report.count(" differs by ") == 6 and "PSNR against the truth" not in report.split("## How")[0]
    monkeypatch.setattr(study, "_train", None)
    monkeypatch.setattr(study, "_measure", None)
    assert study.reproduce(out=str(tmp_path / "report"), **small)[0].read_text() == report


def test_built_in_models_belong_to_the_built_in_generator() -> None:
    for name in CLIPS:
        assert load_model(builtin(f"{KIND}-{name}")).config.generator == sha256(builtin("generator")), name
    assert set(StyleVideoGAN.builtin().models) == set(CLIPS)
    assert "stylevideogan" in stylereel.list_systems()


def test_built_in_talking_moves_as_its_clip_and_on_anyone() -> None:
    """Range and speed of the components that carry most of the motion, and the same motion on a person at rest."""
    system = StyleVideoGAN.builtin()
    assert isinstance(system.generator, StyleGAN2)
    model = system.models["talking"]
    clip = CLIPS["talking"].codes(system.generator, builtin("generator"))
    real = model.coordinates(clip.w)[:, :6]
    with torch.no_grad():
        made = torch.stack([model.coordinates(model.codes(sample_path(model, n, 1500)))[50:, :6] for n in range(6)])
    assert (made.flatten(0, 1).std(0) / real.std(0)).sub(1).abs().max() < 0.35
    assert (made.diff(dim=1).flatten(0, 1).std(0) / real.diff(dim=0).std(0)).sub(1).abs().max() < 0.35
    _, motion = system.sample(3, 40, model="talking")
    face = load_face(builtin("face"))
    rest = torch.from_numpy(np.stack([portrait(system, system.identify(who)) for who in (5, 12, 29)]))
    with torch.no_grad():
        assert face(rest.permute(0, 3, 1, 2).float() / 127.5 - 1).motion[:, :2].abs().max() < 0.2, "they look ahead"
    tracks = []
    for who in (29, 12):
        frames = torch.from_numpy(np.stack(list(render(system, system.identify(who), motion))))
        with torch.no_grad():
            tracks.append(face(frames.permute(0, 3, 1, 2).float() / 127.5 - 1).motion[:, :2])
    assert all(np.corrcoef(a, b)[0, 1] > 0.9 for a, b in zip(tracks[0].T, tracks[1].T)), "yaw and pitch"
