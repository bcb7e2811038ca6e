"""Measures over time: noise, loops and delays of known size are found with that size."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from stylereel import world
from stylereel.metrics import motion, sync, syncnet
from stylereel.metrics.faces import eye_distance, mouth_opening
from stylereel.metrics.registry import Clip, Unfit, find

MOTION = world.MOTION_COLUMNS


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def landmarks(track: np.ndarray) -> np.ndarray:
    values = np.tile(world.neutral(), (len(track), 1))
    values[:, MOTION] = track
    return np.stack([world.project_landmarks(v)[0] for v in values]).astype(float)


# --- Steadiness


def test_a_cubic_is_steady_and_noise_keeps_its_size() -> None:
    time = np.linspace(-1, 1, 4000)
    path = np.stack([time**3 - time, 2 * time**2], axis=1)
    assert np.abs(motion.unsteadiness(path)).max() < 1e-9
    noise = 0.3 * random().standard_normal((4000, 2))
    assert np.sqrt((motion.unsteadiness(path + noise) ** 2).mean()) == pytest.approx(0.3, rel=0.05)
    with pytest.raises(ValueError, match="5 frames"):
        motion.unsteadiness(path[:4])


def test_landmark_jitter_is_the_size_of_added_noise_and_blind_to_the_head() -> None:
    track = landmarks(world.natural_motion(0, 120))
    eyes = eye_distance(track).mean()
    natural = motion.landmark_jitter(track)
    assert natural < 0.005, "natural motion is nearly steady"
    noisy = track + 0.01 * eyes * random().standard_normal(track.shape)
    # Laying each frame onto the mean takes 4 of 136 degrees of freedom.
    assert motion.landmark_jitter(noisy) == pytest.approx(np.hypot(natural, 0.01 * np.sqrt(132 / 136)), rel=0.04)
    shaken = track + 0.02 * eyes * random(1).standard_normal((120, 1, 2))
    assert motion.landmark_jitter(shaken) == pytest.approx(natural, rel=0.01)
    assert motion.head_jitter(shaken) == pytest.approx(0.02, rel=0.15)
    assert motion.head_jitter(track) < 0.003


def test_crop_jitter_is_that_of_its_corners_in_sides() -> None:
    crops = np.tile([300.0, 200.0, 400.0, 5.0], (3000, 1))
    assert motion.crop_jitter(crops) < 1e-12
    crops[:, 0] += 2 * random().standard_normal(3000)
    assert motion.crop_jitter(crops) == pytest.approx(2 / np.sqrt(2) / 400, rel=0.05)  # x trembles, y does not
    breathing = np.tile([300.0, 200.0, 400.0, 0.0], (3000, 1))
    breathing[:, 2] += 2 * random().standard_normal(3000)
    assert motion.crop_jitter(breathing) == pytest.approx(1 / 400, rel=0.05)  # each corner by half the side


def test_flicker_is_the_noise_of_the_still_half() -> None:
    picture = random().integers(40, 200, (48, 64, 3))
    still = [picture.astype(np.uint8)] * 30
    assert motion.flicker(still) < 1e-9
    flickering = [np.clip(np.round(picture + 3 * g), 0, 255).astype(np.uint8) for g in random(1).standard_normal(300)]
    assert motion.flicker(flickering) == pytest.approx(3, rel=0.15)
    moving = [frame.copy() for frame in still]
    for index, frame in enumerate(moving):  # something crosses 40 % of the picture
        frame[:20, (7 * index) % 64] = 255
    assert motion.flicker(moving) < 1e-9
    with pytest.raises(ValueError, match="20 frames"):
        motion.flicker(still[:19])
    with pytest.raises(Unfit, match="too short"):
        find("flicker")([Clip(still[:19])])


# --- Loops


@pytest.mark.parametrize("period", [30, 75, 110])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_repeated_trajectory_loops_at_its_period(period: int, noise: float) -> None:
    once = world.natural_motion(1, period + 8)
    fade = np.linspace(0, 1, 8)[:, None]
    once[:8] = fade * once[:8] + (1 - fade) * once[period:]
    track = np.tile(once[:period], (9, 1))[:250]
    found = motion.loop(track + noise * track.std(0) * random().standard_normal(track.shape))
    assert found.loops and abs(found.lag - period) <= 1
    assert found.repetition == pytest.approx(1 / (1 + noise**2), abs=0.03)


def test_natural_motion_does_not_loop() -> None:
    for frames in (60, 250, 800):
        for seed in range(8):
            assert not motion.loop(world.natural_motion(seed, frames)).loops


def test_a_ramp_does_not_loop_and_a_transient_can_be_left_out() -> None:
    assert not motion.loop(np.linspace(0, 1, 100)[:, None]).loops
    start = 30 * random().standard_normal((100, 2)).cumsum(0)
    circle = np.stack([f(np.arange(200) * 2 * np.pi / 25) for f in (np.sin, np.cos)], axis=1)
    track = np.concatenate([start, circle])
    assert not motion.loop(track).loops
    assert motion.loop(track, start=100)[::2] == (25, True)
    with pytest.raises(ValueError, match="is constant"):
        motion.loop(np.ones((50, 3)))


# --- Offsets


@pytest.mark.parametrize("late", [-9, -1, 0, 4, 15])
def test_a_delay_is_recovered_exactly(late: int) -> None:
    mouth = mouth_opening(landmarks(world.natural_motion(2, 150)))
    shown, truth = mouth[20 - late : 120 - late], mouth[20:120]
    found = sync.best_offset(3 - 2 * -shown, truth)
    assert found.frames == late and found.correlation == pytest.approx(1)


def test_still_or_unequal_tracks_have_no_offset() -> None:
    with pytest.raises(ValueError, match="A constant track"):
        sync.best_offset(np.ones(40), np.arange(40.0))
    with pytest.raises(ValueError, match="one length"):
        sync.best_offset(np.arange(40.0), np.arange(41.0))


def test_a_late_picture_is_found_in_its_pixels() -> None:
    """Frames of the world three frames behind the exact landmarks beside the reference."""
    track = world.natural_motion(8, 48)
    values = np.tile(world.neutral(), (48, 1))
    values[:, NAMES_JAW] = track[:, NAMES_JAW]
    drawn = [world.draw(v, 192) for v in values]
    result = Clip([p.image for p in drawn[:45]])
    reference = Clip([p.image for p in drawn[3:]], truth={"landmarks": np.stack([p.landmarks for p in drawn[3:]])})
    assert find("mouth-offset")([result], [reference]).value == 3
    assert find("mouth-offset-correlation")([result], [reference]).value > 0.9


NAMES_JAW = world.MOTION.index("jaw")


# --- SyncNet


def test_other_rates_show_the_nearest_frame() -> None:
    assert syncnet.at_rate(6, Fraction(25)).tolist() == [0, 1, 2, 3, 4, 5]
    assert syncnet.at_rate(6, Fraction(50)).tolist() == [0, 2, 4]
    assert syncnet.at_rate(3, Fraction(25, 2)).tolist() == [0, 1, 1, 2, 2, 2]
    assert syncnet.at_rate(12, Fraction(30)).tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 10, 11]
    assert len(syncnet.at_rate(300, Fraction(30000, 1001))) == 250


def slow_mfcc(sound: np.ndarray, row: int) -> np.ndarray:
    """One row by the definition, sum by sum."""
    filtered = [sound[0]] + [sound[i] - 0.97 * sound[i - 1] for i in range(1, len(sound))]
    window = (filtered + [0.0] * 800)[160 * row : 160 * row + 400]
    bins, samples = np.arange(257), np.arange(400)
    spectrum = np.exp(-2j * np.pi * np.outer(bins, samples) / 512) @ window
    power = np.abs(spectrum) ** 2 / 512
    mel = [i * 2595 * np.log10(1 + 8000 / 700) / 27 for i in range(28)]
    corner = [int(513 * 700 * (10 ** (m / 2595) - 1) / 16000) for m in mel]
    bands = []
    for j in range(26):
        total = 0.0
        for k in range(corner[j], corner[j + 1]):
            total += power[k] * (k - corner[j]) / (corner[j + 1] - corner[j])
        for k in range(corner[j + 1], corner[j + 2]):
            total += power[k] * (corner[j + 2] - k) / (corner[j + 2] - corner[j + 1])
        bands.append(np.log(total))
    out = []
    for n in range(13):
        value = sum(band * np.cos(np.pi * n * (2 * j + 1) / 52) for j, band in enumerate(bands))
        out.append(value * np.sqrt((1 if n == 0 else 2) / 26) * (1 + 11 * np.sin(np.pi * n / 22)))
    return np.array([np.log(power.sum()), *out[1:]])


def test_mfcc_of_a_chirp_equals_the_definition() -> None:
    seconds = np.arange(4100) / 16000
    chirp = np.round(9000 * np.sin(2 * np.pi * (200 * seconds + 9000 * seconds**2)))
    rows = syncnet.mfcc(chirp)
    assert rows.shape == (25, 13)  # 1 + ceil((4100 - 400) / 160)
    for row in (0, 11, 24):
        assert_allclose(rows[row], slow_mfcc(chirp, row), atol=1e-6)
    assert np.isfinite(syncnet.mfcc(np.zeros(10))).all()


@pytest.fixture(scope="module")
def net() -> syncnet.SyncNet:
    torch.manual_seed(0)
    net = syncnet.SyncNet().eval().requires_grad_(False)
    return net


def test_the_network_has_the_published_names_and_sizes(net: syncnet.SyncNet) -> None:
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    assert shapes["netcnnaud.18.weight"] == (512, 256, 5, 4)
    assert shapes["netcnnlip.0.weight"] == (96, 3, 5, 7, 7) and shapes["netcnnlip.18.weight"] == (512, 256, 1, 6, 6)
    assert shapes["netfcaud.3.weight"] == shapes["netfclip.3.weight"] == (1024, 512)
    # The published file of 54,573,114 bytes holds float32 numbers and little else.
    assert 0 < 54_573_114 - 4 * sum(value.numel() for value in net.state_dict().values()) < 40_000


@pytest.mark.parametrize("zipped", [True, False])
def test_a_published_file_loads_without_running_it(net: syncnet.SyncNet, tmp_path: Path, zipped: bool) -> None:
    state = {key: value for key, value in net.state_dict().items() if "num_batches_tracked" not in key}
    torch.save(state, tmp_path / "syncnet_v2.model", _use_new_zipfile_serialization=zipped)
    loaded = syncnet.SyncNet.load(tmp_path / "syncnet_v2.model")
    rows = torch.randn(2, 1, 13, 20)
    assert torch.equal(loaded.hear(rows), net.hear(rows)) and net.hear(rows).shape == (2, 1024)
    state.pop("netfcaud.0.weight")
    torch.save(state, tmp_path / "other.model")
    with pytest.raises(ValueError, match="netfcaud.0.weight is missing"):
        syncnet.SyncNet.load(tmp_path / "other.model")


def test_frames_in_a_row_are_seen_five_by_five(net: syncnet.SyncNet) -> None:
    frames = 255 * torch.rand(1, 3, 7, 224, 224, generator=torch.Generator().manual_seed(1))
    together = net.see(frames)
    alone = torch.cat([net.see(frames[:, :, i : i + 5]) for i in range(3)])
    assert together.shape == (3, 1024)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("late", [-5, 0, 7])
def test_distance_and_confidence_by_hand(late: int) -> None:
    events = torch.randn(140, 1024, generator=torch.Generator().manual_seed(2))
    pictures, sounds = events[20 - late : 120 - late], events[20:120]
    found = syncnet.sync(pictures, sounds)
    assert found.offset == late
    # Rows that fall off the end of the sound meet zeros; all others but the right one lie sqrt(2 * 1024) apart.
    edge = abs(late) / 100 * float(pictures.norm(dim=1).mean())
    assert found.distance == pytest.approx(edge, abs=0.05)
    assert found.confidence == pytest.approx(np.sqrt(2048) * 0.98 - found.distance, abs=1.5)


def test_lip_sync_without_its_weights_or_sound_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STYLEREEL_CACHE", str(tmp_path))
    silent = Clip([np.zeros((8, 8, 3), np.uint8)] * 9, name="mute")
    with pytest.raises(Unfit, match="weights get syncnet_v2.model"):
        find("lse-d")([silent])
    with pytest.raises(Unfit, match="mute has no sound"):
        sync.lse_c(silent)
