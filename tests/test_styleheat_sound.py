"""StyleHEAT's sound half: its data against the world's truth, its stages in small, and the mouth that follows sound."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stylereel import world
from stylereel.commands.train import train
from stylereel.core.builtin import builtin
from stylereel.core.latents import FACE, Motion
from stylereel.core.render import render, tuned
from stylereel.core.weights import read_card
from stylereel.generator import StyleGAN2
from stylereel.media.mel import mel_spectrogram, styleheat_windows
from stylereel.metrics.exact import by_face_net
from stylereel.metrics.faces import mouth_opening
from stylereel.recipes import voices
from stylereel.systems.styleheat import hearing, points, talking
from stylereel.systems.styleheat.expert import Expert
from stylereel.systems.styleheat.files import load_calibration, load_warper
from stylereel.systems.styleheat.losses import PyramidLoss
from stylereel.systems.styleheat.motion import COUNT, coordinates, sound_of, with_sound
from stylereel.systems.styleheat.networks import WarperConfig
from stylereel.systems.styleheat.sound import move_by_sound
from stylereel.systems.styleheat.state import read_state
from stylereel.systems.styleheat.system import StyleHEAT
from stylereel.systems.styleheat.training import Settings
from stylereel.train.loop import Trainer
from stylereel.world.factors import MOTION, MOTION_COLUMNS, POSE
from stylereel.world.speech import MOUTH, RATE, speak

SMALL = WarperConfig(80, descriptor=96, size=64, width=8, widest=16, hidden=8, places=True)


@pytest.fixture(autouse=True)
def own_voice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The world's own voice alone, which is everywhere, and little of it."""
    monkeypatch.setattr(voices, "synthesisers", lambda: {"own": voices._own})
    monkeypatch.setattr(talking, "UTTERANCES", 4)
    talking._utterances.cache_clear()


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return StyleGAN2.load(builtin("generator")).eval().requires_grad_(False)


def maps(images: Tensor) -> list[Tensor]:
    return [F.avg_pool2d(images, 2)]


def test_triples_differ_in_the_mouth_alone_and_show_what_is_heard() -> None:
    triples = talking.draw_triples(3, 2)
    proxy = triples.window[:, :, :COUNT, 13]
    target = torch.from_numpy(coordinates(triples.motion.numpy()))
    spoken = [MOTION.index(name) for name in talking.MOUTH]
    rest = [i for i in range(COUNT) if i not in spoken]
    torch.testing.assert_close(proxy[..., rest], target[..., rest], atol=1e-4, rtol=0)
    assert (proxy[..., spoken] - target[..., spoken]).abs().max() > 0.1
    own = triples.window[:, :, COUNT + len(POSE) :, 0]
    torch.testing.assert_close(proxy[..., len(POSE) :], own, atol=1e-4, rtol=0)  # the source's expression
    assert triples.truth.shape == (2, 5, 3, 128, 128) and triples.mel.shape == (2, 5, 80, 32)
    for rank in (0, 1):
        for mine, whole in zip(talking.draw_triples(3, 2, (rank, 2)), triples, strict=True):
            assert torch.equal(mine, whole[rank::2])
    # What the landmarks of the true images open is what the phonemes said.
    inner = triples.landmarks[..., 60:, :]
    apart = (inner[..., 6, 1] - inner[..., 2, 1]).flatten()
    jaw = triples.motion[..., MOTION.index("jaw")].flatten()
    if np.ptp(jaw.numpy()) > 0.05:
        assert np.corrcoef(apart.numpy(), jaw.numpy())[0, 1] > 0.3


def test_windows_are_in_step_or_of_another_time_of_the_same_talk() -> None:
    talks = talking.Talk(
        torch.zeros(2, 25, 3, 48, 96, dtype=torch.uint8),
        torch.arange(50.0).view(2, 25, 1, 1).expand(-1, -1, 80, 16),
    )
    talks.faces[:] = torch.arange(25)[None, :, None, None, None].to(torch.uint8)
    batch = hearing.windows_of(talks, 64, np.random.default_rng(0))
    heard = batch.mel[:, 0, 0] % 25
    light = batch.faces[:, ::3].mean((2, 3))  # frames of one window, under one light
    first = (light[:, 0] / (light[:, -1] - light[:, 0]).clamp_min(1e-6) * 4).round()
    apart = (first - heard).abs()
    assert (apart[batch.together > 0.5] == 0).all() and (apart[batch.together < 0.5] >= hearing.APART).all()
    assert 16 < batch.together.sum() < 48 and batch.faces.shape == (64, 15, 48, 96)


def test_syncnet_sees_the_mouth() -> None:
    portrait = world.draw(world.align(world.neutral()[None])[0], 128)
    mouth = portrait.landmarks[48:68] * 128
    assert (mouth[:, 1] > talking.ROWS.start).all() and (mouth[:, 1] < talking.ROWS.stop).all()
    assert (mouth[:, 0] > talking.COLUMNS.start).all() and (mouth[:, 0] < talking.COLUMNS.stop).all()
    images = torch.randn(10, 3, 128, 128)
    seen = talking.see(images)
    assert seen.shape == (2, 15, 48, 96)
    torch.testing.assert_close(seen[1, 3:6], (images[6, :, talking.ROWS, talking.COLUMNS] + 1) / 2)


def test_a_face_that_finds_its_own_sound_has_no_contrast_loss() -> None:
    own = torch.eye(6)
    assert hearing.contrast_loss(own, own, own[:0]) < 1e-3
    assert hearing.contrast_loss(own, own.roll(1, 0), own[:0]) > 5
    unknown = hearing.contrast_loss(own * 0, own, own[:2])
    torch.testing.assert_close(unknown, torch.tensor(8.0).log())  # six of its batch and two others


def test_points_are_as_far_off_as_the_flow_is() -> None:
    landmarks = 0.3 + 0.4 * torch.rand(2, 68, 2, generator=torch.Generator().manual_seed(0))
    before = landmarks + torch.tensor([3.0, -4.0]) / 64  # all came from 3 pixels to the right and 4 above
    still, exact = torch.zeros(2, 2, 64, 64), torch.tensor([3.0, -4.0])[:, None, None].expand(2, 2, 64, 64)
    assert abs(points.point_error(still, before, landmarks) - 5) < 1e-3
    assert points.point_error(exact.contiguous(), before, landmarks) < 0.01


def test_heads_that_say_something_move_chin_and_lips_alone(generator: StyleGAN2) -> None:
    video = load_warper(builtin("styleheat-video")).eval()
    heads, sounds = points.draw_heads(0, generator, video, torch.float32, 3), points.draw_sounds(0, 2)
    assert heads.images.shape == (3, 3, 64, 64) and len(sounds.mel) == len(sounds.mouth) == 2 * points.MOMENTS
    wide = sounds._replace(mouth=torch.tensor([1.0, 0, 0, 0, 0]).expand(len(sounds.mel), -1))
    shut = wide._replace(mouth=0 * wide.mouth)
    saying, silent = (points.let_say(heads, each, 6, np.random.default_rng(0)) for each in (wide, shut))
    assert torch.equal(saying.images, silent.images) and torch.equal(saying.before, silent.before)
    upper = [*range(17, 27), *range(36, 48)]  # brows and eyes
    torch.testing.assert_close(saying.landmarks[:, upper], saying.before[:, upper], atol=1e-5, rtol=0)
    opening, closed = (each.landmarks[:, 66, 1] - each.landmarks[:, 62, 1] for each in (saying, silent))
    assert (opening > closed + 0.02).all()
    still = points.away(saying.landmarks)
    for index in points.CHIN_AND_LIPS:
        x, y = (64 * saying.landmarks[0, index]).long().clamp(max=63).tolist()
        assert not still[0, 0, y, x]
    assert still[:, :, :20].all()


def test_the_audio_warper_learns_where_sound_takes_points(
    generator: StyleGAN2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points, "HEADS", 2)
    monkeypatch.setattr(points, "CROPS", 1)
    monkeypatch.setattr(points, "MOMENTS", 4)
    video, trainer = load_warper(builtin("styleheat-video")), Trainer(tmp_path, precision="32", checkpoint_seconds=1e9)
    settings = Settings(80, 8, rate=3e-3, pool=1, muon=True)
    points.train_points(trainer, generator, video, hearing.new_audio(SMALL), settings)
    log = hearing.read_log(tmp_path / "styleheat-audio-points" / "log.jsonl")
    assert log[-1]["points"] < 0.8 * log[-1]["points, not moved"] and log[-1]["tell"] < 0.5 * log[0]["tell"]


def test_a_calibration_that_listens_begins_as_the_video_s() -> None:
    calibration = load_calibration(builtin("styleheat-calibration")).eval()
    both = hearing.listening(calibration, 5).eval()
    x, motion, guide = torch.randn(1, calibration.config.channels, 64, 64), torch.randn(1, 96), torch.rand(1, 9, 64, 64)
    with torch.no_grad():
        expected = calibration(x, motion, guide).apply(x)
        torch.testing.assert_close(both(x, motion, guide, torch.randn(1, 5)).apply(x), expected)
        torch.nn.init.normal_(both.sound.weight)
        assert not torch.allclose(both(x, motion, guide, torch.randn(1, 5)).apply(x), expected)
    with pytest.raises(ValueError, match="conditioned on the sound"):
        both(x, motion, guide)
    with pytest.raises(ValueError, match="give it a descriptor"):
        replace(calibration.config, descriptor=0, sound=5)


def test_where_an_expert_leaves_chance() -> None:
    log = [{"step": 20.0 * i, "sync": loss} for i, loss in enumerate([0.8, 0.69, 0.6, 0.68, 0.5, 0.4])]
    assert hearing.left_chance(log) == 80
    assert hearing.left_chance(log[:2]) is None and hearing.left_chance([]) is None


def test_an_expert_learns_one_talk_by_heart(tmp_path: Path) -> None:
    talks = talking.draw_talks(0, 1)
    settings = Settings(40, 16, rate=2e-3)
    torch.manual_seed(0)
    expert = hearing.train_expert(Trainer(tmp_path, precision="32"), settings, 4, talks=talks)
    log = [line["sync"] for line in hearing.read_log(tmp_path / "styleheat-syncnet" / "log.jsonl")]
    assert log[-1] < log[0] and expert.config.width == 4


def test_the_audio_warper_learns_one_batch_and_its_flow_is_below(
    generator: StyleGAN2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    triples = talking.draw_triples(0, 1)
    monkeypatch.setattr(talking, "draw_triples", lambda *_, **__: triples)
    monkeypatch.setattr(hearing, "show", lambda *_: np.zeros((8, 8, 3), np.uint8))
    video = load_warper(builtin("styleheat-video"))
    trainer = Trainer(tmp_path, precision="32", checkpoint_seconds=1e9)
    settings = replace(hearing.QUICK.audio, steps=14, batch=5, pool=0, rate=1e-2)
    hearing.train_audio(trainer, generator, video, settings, maps, Expert(4), config=SMALL)
    log = hearing.read_log(tmp_path / "styleheat-audio" / "log.jsonl")[-1]
    lessons = hearing.Lessons(trainer, generator, video)
    lesson = lessons(triples)
    state = torch.load(next((tmp_path / "styleheat-audio").glob("checkpoint-*.pt")), weights_only=False)
    model = hearing.new_audio(SMALL)
    with torch.no_grad():
        before = move_by_sound(generator, model, lesson.joined, lesson.w, lesson.moved, lesson.mel)
        model.load_state_dict(state["modules"]["model"])
        after = move_by_sound(generator, model, lesson.joined, lesson.w, lesson.moved, lesson.mel)
        losses = [hearing.audio_loss(x, model, lesson, PyramidLoss(maps, 2), None)["pixels"] for x in (before, after)]
    assert not before.flow.any() and not after.flow[:, :, :32].any() and after.flow[:, :, 32:].any()
    torch.testing.assert_close(before.warped, model.warp(lesson.joined, lesson.moved.flow))  # nothing moved yet
    assert losses[1] < 0.9 * losses[0] and log["sync"] > 0 and log["outside"] >= 0


def test_a_sound_that_moves_nothing_leaves_the_calibration_what_it_knows(generator: StyleGAN2) -> None:
    video, calibration = load_warper(builtin("styleheat-video")), load_calibration(builtin("styleheat-calibration"))
    speaker = hearing.Speaker(hearing.new_audio(SMALL), calibration).eval()
    with torch.no_grad():
        w = generator.map(torch.randn(1, generator.config.z_dim, generator=torch.Generator().manual_seed(2)))
        joined, guide = read_state(generator, w).joined(), torch.rand(1, 9, 64, 64)
        moved = video.eval()(torch.zeros(1, 3, 64, 64), torch.zeros(1, video.config.inputs, 27), guide)
        heard, repaired = speaker(generator, joined, w, moved, 100 * torch.randn(1, 80, 32), guide)
        expected = calibration(video.warp(joined, moved.flow), moved.descriptor, guide)
        torch.testing.assert_close(repaired, expected.apply(heard.warped), atol=1e-2, rtol=1e-2)


def test_the_recipe_trains_all_stages_with_sound_and_the_mouth_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "show", lambda *_: np.zeros((8, 8, 3), np.uint8))
    few = hearing.Hears(
        replace(hearing.QUICK.expert, steps=2, batch=4, pool=1),
        *(replace(stage, steps=2, batch=5, pool=1, local=1.0) for stage in (hearing.QUICK.audio, hearing.QUICK.joint)),
        points=Settings(2, 4, rate=1e-3, pool=1, muon=True),
    )
    monkeypatch.setattr(hearing, "QUICK", few)
    monkeypatch.setattr(hearing, "TALKS", 1)
    monkeypatch.setattr(points, "HEADS", 2)
    monkeypatch.setattr(points, "CROPS", 1)
    folder = str(tmp_path / "run")
    files = train("styleheat-sound", folder=folder, precision="32")
    assert [file.stem for file in files] == ["styleheat-syncnet", "styleheat-audio", "styleheat-audio-calibration"]
    card = read_card(files[0])
    assert card["left 0.69 at step"] is None and 0 <= card["held out"]["right"] <= 1
    files = files[1:]
    with pytest.raises(ValueError, match="give --data to --stage syncnet"):
        train("styleheat-sound", folder=folder, options={"stage": "audio", "data": "clips"})

    # The system with them: the mouth's own numbers count no more, the sound does.
    plain = StyleHEAT.builtin()
    audio = load_warper(files[0], "audio"), load_calibration(files[1])
    torch.nn.init.normal_(next(iter(audio[0].flow.parameters())), 0, 0.3)
    system = StyleHEAT(plain.generator, None, plain.warper, plain.calibration, audio=audio)
    identity = system.identify(3)
    values = np.tile(world.neutral()[MOTION_COLUMNS], (3, 1)).astype(np.float32)
    still = Motion(values, FACE, tuple(MOTION), Fraction(25), np.ones((3, 4), np.float32))
    open_ = replace(still, values=still.values.copy())
    open_.values[:, MOTION.index("jaw")] = 0.8
    sound = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    one, other = (np.stack([*render(system, identity, m, precision="32")]) for m in (
        system.with_sound(still, sound), system.with_sound(open_, sound)
    ))  # fmt: skip
    assert np.array_equal(one, other)
    (quiet,) = (np.stack([*render(system, identity, system.with_sound(still, 0 * sound), precision="32")]),)
    assert not np.array_equal(one, quiet)
    with pytest.raises(ValueError, match="give both or none"):
        StyleHEAT.from_files(warper=str(builtin("styleheat-video")), audio_warper=str(files[0]))


def test_the_built_in_audio_warper_follows_speech() -> None:
    with pytest.raises(ValueError, match="also needs --warper"):
        StyleHEAT.from_files(generator=str(builtin("generator")), audio_warper="builtin")
    system = StyleHEAT.from_files(audio_warper="builtin")
    assert {path.stem for path in system.weight_files} >= {"styleheat-audio", "styleheat-audio-calibration"}
    said = speak("Maybe Bob.", 5)
    identity = system.identify(3)
    values = np.tile(world.neutral()[MOTION_COLUMNS], (len(said.mouth), 1)).astype(np.float32)
    still = Motion(values, FACE, tuple(MOTION), Fraction(25), np.ones((len(values), 4), np.float32))
    spoken = system.with_sound(still, said.audio)
    opening = mouth_opening(by_face_net(np.stack([*render(system, identity, spoken, precision="32")]))[0])
    assert np.corrcoef(opening, said.mouth[:, MOUTH.index("jaw")])[0, 1] > 0.75 and np.ptp(opening) > 0.05
    # What a photograph tunes the calibration by is the same for the one that learned from it with sound.
    assert system.calibration is not None and system.audio_calibration is not None
    change = {f"calibration.{name}": torch.ones_like(p) for name, p in system.calibration.named_parameters()}
    other = tuned(system, replace(identity, delta=change))
    assert other.audio_calibration is not None
    before, after = (dict(net.named_parameters()) for net in (system.audio_calibration, other.audio_calibration))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if f"calibration.{name}" in change
                     and change[f"calibration.{name}"].shape == before[name].shape}  # fmt: skip
    assert len(moved) > 0.8 * len(before) and other.audio_warper is system.audio_warper


def test_a_motion_holds_what_is_heard_at_each_frame() -> None:
    motion = Motion(np.zeros((30, 20), np.float32), FACE, tuple(MOTION), Fraction(25), np.ones((30, 4), np.float32))
    sound = np.random.default_rng(1).standard_normal(RATE).astype(np.float32) / 10
    heard = with_sound(motion, sound)
    plain, mel = sound_of(heard)
    assert mel is not None and plain.names == motion.names and np.array_equal(plain.values, motion.values)
    whole = styleheat_windows(mel_spectrogram(torch.from_numpy(np.pad(sound, (0, 2 * RATE)))), 30, Fraction(25))
    torch.testing.assert_close(mel, whole, atol=1e-5, rtol=0)
    assert sound_of(motion) == (motion, None)
    again = with_sound(heard, sound)
    assert len(again.names) == len(heard.names)
    part, of_part = sound_of(heard.part(5, 9))
    assert len(part) == 4 and of_part is not None and torch.equal(of_part, mel[5:9])


def test_talks_of_clips_need_sound_and_a_face(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    with pytest.raises(ValueError):
        talking.read_talks(tmp_path / "clips")
