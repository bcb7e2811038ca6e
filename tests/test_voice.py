"""Lips by sound: the net hears in pieces what it hears at once, closes where lips close, and moves any system's motion;
`drive --audio` and `say` take every sound there is."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from scipy.ndimage import gaussian_filter1d

from stylereel import systems
from stylereel.cli import main
from stylereel.commands.lips import as_face
from stylereel.core.builtin import builtin
from stylereel.core.latents import CODES, FACE, Motion, MotionKind
from stylereel.family.lips import alive, part_of_sound, there_and_back, with_lips
from stylereel.family.people import motion_codes
from stylereel.family.voice import (
    DELAY,
    LOOK_AHEAD,
    MOMENTS,
    PHONES,
    Ear,
    Hearing,
    Moments,
    VoiceNet,
    listen,
    load_voice,
)
from stylereel.media.sound import waveform
from stylereel.media.video import VideoReader
from stylereel.metrics import talking
from stylereel.metrics.clips import Clip
from stylereel.recipes import voice as recipe
from stylereel.recipes import voices
from stylereel.world.factors import MOTION, MOTION_COLUMNS, neutral
from stylereel.world.readers import read_aloud
from stylereel.world.speech import RATE, Phoneme, Speech, mouth, speak

TEXT = "Maybe Bob will buy a big map for papa. We hope to move home before summer."


@pytest.fixture(scope="module")
def net() -> VoiceNet:
    return load_voice(builtin("voice"))


@pytest.fixture(scope="module")
def said() -> Speech:
    return speak(TEXT, 4321)


@pytest.fixture(scope="module")
def heard(net: VoiceNet, said: Speech) -> Hearing:
    return listen(net, [said.audio])


# --- The net


def test_sound_in_pieces_is_heard_as_in_one(net: VoiceNet, said: Speech, heard: Hearing) -> None:
    sound = said.audio[:40000]
    whole = listen(net, [sound])
    again = listen(net, [sound[:7], sound[7:20001], sound[20001:]])
    assert all(np.array_equal(a, b) for a, b in zip(whole.moments, again.moments))
    live = Ear(net, at_once=1)
    first = live.hear(sound[:8000])
    # Live, the mouth at a time is known LOOK_AHEAD later, and no later.
    assert len(first.mouth) == int((0.5 - LOOK_AHEAD) * MOMENTS) + 1 and LOOK_AHEAD <= 0.2
    assert np.abs(first.mouth - whole.moments.mouth[: len(first.mouth)]).max() < 1e-5
    assert np.abs(heard.moments.mouth[:60] - whole.moments.mouth[:60]).max() < 1e-5  # what comes later changes nothing


def test_there_are_as_many_frames_as_begin_before_the_end(heard: Hearing, said: Speech) -> None:
    for rate in (Fraction(25), Fraction(30000, 1001), Fraction(50)):
        frames = heard.mouth(rate)
        assert len(frames) == -(-len(said.audio) * rate // RATE) and frames.min() >= 0 and frames.max() <= 1
    longer = heard.mouth(Fraction(25), 500)
    assert len(longer) == 500 and not longer[-100:].any() and len(heard.mouth(Fraction(25), 10)) == 10


def test_the_mouth_of_held_out_speech_is_right(heard: Hearing, said: Speech) -> None:
    apart, truth = talking.opening(heard.mouth(said.rate)), talking.opening(said.mouth)
    assert np.corrcoef(apart, truth)[0, 1] > 0.9
    number, closed = talking.closures(apart, list(said.phonemes), said.rate)
    assert number >= 10 and closed >= 0.9 * number


def test_silence_noise_and_music_leave_the_mouth_closed(net: VoiceNet) -> None:
    random = np.random.default_rng(5)
    for sound in (np.zeros(32000), 0.01 * random.standard_normal(32000), 0.2 * voices.music(32000, random)):
        found = listen(net, [sound.astype(np.float32)])
        assert talking.opening(found.mouth(Fraction(25))).mean() < 0.015 and found.speaking < 0.2
    assert listen(net, []).num_samples == 0


# --- The data


def test_sound_and_labels_of_a_crop_belong_together(said: Speech) -> None:
    """Where a crop is silent its labels are, in time, through changes of speed."""
    one = voices.Said("espeak", said.audio, list(said.phonemes))
    agree = []
    for seed in range(6):
        sound, track = recipe.crop([one], np.random.default_rng(seed))
        assert len(sound) == recipe.SECONDS * RATE and track[0].start == 0
        shown, named = recipe.labels(track, recipe.SECONDS * MOMENTS)
        assert shown.shape == (5, 160)
        loud = np.sqrt(np.square(sound).reshape(-1, RATE // MOMENTS).mean(1))
        speaking = (named != PHONES.index("_"))[DELAY:]
        if 0.1 < speaking.mean() < 0.9:
            agree.append(np.corrcoef(np.log(loud[: len(speaking)] + 1e-4), speaking)[0, 1])
    assert len(agree) >= 3 and np.mean(agree) > 0.5


def test_what_sound_goes_through_keeps_its_length_and_its_time() -> None:
    random = np.random.default_rng(1)
    pulses = np.zeros(32000, np.float32)
    pulses[8000:24000:2000] = 1
    sound = (gaussian_filter1d(pulses, 40) * np.sin(np.arange(32000) / 5)).astype(np.float32)
    for _ in range(8):
        changed = voices.disturb(sound, random)
        assert len(changed) == len(sound) and np.isfinite(changed).all()
    for codec in voices.CODECS:
        coded = voices.coded(sound, codec, 24000)
        assert len(coded) == len(sound) and abs(voices.delay(sound, coded)) <= 8


def test_phonemes_of_flite_and_of_the_aligner_are_where_the_sound_is() -> None:
    there = voices.synthesisers()
    if not {"flite", "hibari"} & there.keys():
        pytest.skip("neither Flite nor hibari with PocketSphinx is installed")
    for name in {"flite", "hibari"} & there.keys():
        one = there[name](np.random.default_rng(3))
        loud = [np.abs(one.samples[p.start : p.end]).mean() for p in one.phonemes if p.name != "_"]
        quiet = [np.abs(one.samples[p.start : p.end]).mean() for p in one.phonemes if p.name == "_"]
        assert len(loud) > 10 and np.mean(quiet) < 0.3 * np.mean(loud)


# --- Motion


def test_lips_go_on_any_motion_and_the_rest_stays(heard: Hearing) -> None:
    count = 60
    values = np.tile(neutral()[MOTION_COLUMNS], (count, 1))
    values[:, MOTION.index("yaw")] = np.linspace(-9, 9, count)
    values[:, MOTION.index("jaw")] = 0.7
    still = Motion(values, FACE, MOTION, Fraction(25), np.ones((count, 4), np.float32))
    spoken = with_lips(still, heard)
    for name in MOTION:
        same = np.array_equal(spoken.column(name), still.column(name))
        assert same == (name not in ("jaw", "smile", "pucker", "press", "funnel"))
    assert np.array_equal(spoken.column("jaw"), heard.mouth(Fraction(25), count)[:, 0])
    back = there_and_back(still, 150)
    assert np.allclose(back.column("yaw")[60:119], still.column("yaw")[58::-1])
    assert np.abs(np.diff(back.column("yaw"))).max() < 0.4 and len(there_and_back(still, 5)) == 5


def test_a_head_that_nothing_drives_moves_looks_and_blinks(heard: Hearing) -> None:
    one, other = (alive(heard, Fraction(25), seed) for seed in (1, 2))
    assert len(one) == heard.num_frames(Fraction(25)) and not np.array_equal(one.values, other.values)
    for name in ("yaw", "pitch", "gaze_x"):
        assert one.column(name).std() > 0.01
    long = Hearing(Moments(np.zeros((801, 5), np.float32), np.zeros(801, np.uint8), np.zeros(801)), 20 * RATE)
    assert alive(long, Fraction(25)).column("blink_left").max() > 0.5


def test_a_motion_in_other_coordinates_is_read_as_a_face() -> None:
    """Codes that show known motion: the face net reads the head's angle off the images that they give."""
    system = systems.load("stylemask", device="cpu")
    values = np.tile(neutral()[MOTION_COLUMNS], (3, 1))
    values[:, MOTION.index("yaw")] = (-20, 0, 20)
    codes = motion_codes(system.generator, values).flatten(1).numpy()
    names = tuple(map(str, range(codes.shape[1])))
    motion = Motion(codes, CODES, names, Fraction(25), np.ones((3, 4), np.float32))
    read = as_face(motion, system)
    assert read.kind == FACE and np.abs(read.column("yaw") - (-20, 0, 20)).max() < 6
    assert as_face(read, system) is read
    with pytest.raises(ValueError, match="cannot be read as a face's"):
        as_face(replace(motion, kind=MotionKind("other")), system)


def test_a_part_of_sound_in_pieces() -> None:
    sound = np.arange(40000, dtype=np.float32)
    part = np.concatenate([*part_of_sound(np.array_split(sound, 7), Fraction(1, 2), Fraction(1))])
    assert np.array_equal(part, sound[8000:24000])


# --- Commands


def drive(out: Path, *more: object) -> int:
    return main(["drive", "stylemask", "--source", "3", "--out", str(out), "--precision", "32", *map(str, more)])


def wav(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    wavfile.write(path, rate, (samples * 32767).astype(np.int16))
    return path


def record(out: Path) -> dict:
    return json.loads(out.with_suffix(".json").read_text())


def test_a_portrait_at_rest_speaks_and_the_sound_is_in_it(tmp_path: Path, said: Speech) -> None:
    sound, out = wav(tmp_path / "said.wav", said.audio[:24000]), tmp_path / "out.mp4"
    assert drive(out, "--audio", sound) == 0
    reader, facts = VideoReader(out), record(out)
    assert reader.num_frames == 38 and reader.rate == 25 and reader.has_audio
    assert facts["lips"]["from"] == "sound" and facts["lips"]["length"] == "of the sound"
    assert facts["lips"]["speech"] > 0.5 and "note" not in facts["lips"] and "driving" not in facts["inputs"]
    again = waveform(out)[:24000]
    assert abs(voices.delay(said.audio[:24000], again)) < 160  # 10 ms
    assert drive(tmp_path / "part.mp4", "--audio", sound, "--start", "0.5", "--frames", "4", "--fps", "30") == 0
    part = record(tmp_path / "part.mp4")
    assert part["rate"] == "30/1" and part["frames"]["written"] == 4 and part["lips"]["sound seconds"] == 0.133


def test_pose_of_a_motion_and_lips_of_a_sound(tmp_path: Path, said: Speech, capsys: pytest.CaptureFixture[str]) -> None:
    """A longer sound lets the motion go back, a shorter one ends it; without --audio the sound is the clip's."""
    count = 10
    values = np.tile(neutral()[MOTION_COLUMNS], (count, 1))
    motion = Motion(values, FACE, MOTION, Fraction(25), np.ones((count, 4), np.float32))
    motion.save(tmp_path / "motion.safetensors")
    sound = wav(tmp_path / "said.wav", said.audio[:12800])
    out = tmp_path / "out.mp4"
    assert drive(out, "--audio", sound, "--driving", tmp_path / "motion.safetensors") == 0
    facts = record(out)
    assert (
        facts["frames"]["written"] == 20 and facts["lips"]["length"] == "of the sound: the motion goes there and back"
    )
    short = wav(tmp_path / "short.wav", said.audio[:3200])
    assert drive(tmp_path / "short.mp4", "--audio", short, "--driving", tmp_path / "motion.safetensors") == 0
    assert record(tmp_path / "short.mp4")["frames"]["written"] == 5
    kept = tmp_path / "driven.mp4"
    assert drive(kept, "--audio", sound, "--driving", tmp_path / "motion.safetensors", "--lips", "driving") == 0
    assert record(kept)["lips"] == {"from": "driving"} and record(kept)["frames"]["written"] == count
    capsys.readouterr()


SURROUND = 2 * np.pi * 440 * np.arange(9600) / 96000


@pytest.mark.parametrize(
    ("samples", "rate", "note"),
    [
        (np.zeros(8000), RATE, "no speech was heard; the mouth stays closed"),
        (0.2 * voices.music(RATE, np.random.default_rng(5)), RATE, "no speech was heard; the mouth stays closed"),
        (0.3 * np.sin(np.arange(3200) / 3), 8000, None),
        (np.repeat(0.3 * np.sin(SURROUND)[:, None], 6, 1), 96000, None),
    ],
    ids=["silent", "music", "8 kHz mono", "96 kHz 5.1"],
)
def test_any_sound_gives_a_result(tmp_path: Path, samples: np.ndarray, rate: int, note: str | None) -> None:
    out = tmp_path / "out.mkv"
    assert drive(out, "--audio", wav(tmp_path / "any.wav", samples, rate), "--frames", "2") == 0
    assert note is None or record(out)["lips"]["note"] == note


def test_what_has_no_sound_is_refused_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = wav(tmp_path / "empty.wav", np.zeros(0))
    short = wav(tmp_path / "short.wav", np.zeros(1600))
    out = tmp_path / "out" / "out.mp4"
    for more, words in (
        ((), "--driving a clip, --audio a sound"),
        (("--audio", empty), "empty.wav"),
        (("--audio", short, "--start", "5"), "has no sound from 5 s on"),
        (("--lips", "sound", "--slider", "yaw=3"), "--lips sound needs one"),
        (("--audio", short, "--paste-back", "driving"), "Only a clip has frames to paste into"),
        (("--audio", tmp_path / "none.wav"), "none.wav"),
    ):
        assert drive(out, *more) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1 and not out.exists()


def test_a_text_becomes_a_talking_portrait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "said.mp4"
    command = ["say", "Hi.", "--source", "3", "--out", str(out), "--voice", "own", "--precision", "32"]
    assert main(command) == 0 and VideoReader(out).has_audio
    assert (tmp_path / "said-voice.wav").exists() and record(tmp_path / "said-voice.wav")["voice"] == "own"
    assert main(command) == 0  # over its own earlier result
    capsys.readouterr()
    for words, mistake in ((["..."], "no English letters"), (["Hi.", "--audio", str(out)], "leave out --audio")):
        assert main(["say", *words, "--source", "3", "--out", str(tmp_path / "no.mp4")]) == 2
        assert mistake in capsys.readouterr().err
    assert main(["say", "Hi.", "--source", str(tmp_path / "nobody.png"), "--out", str(tmp_path / "no.mp4")]) == 2
    assert not list(tmp_path.glob("no*")), "a failed run leaves no voice"
    with pytest.raises(ValueError, match="There is no voice"):
        read_aloud("Hi.", "other")  # type: ignore[arg-type]


# --- Measures


def mesh(apart: np.ndarray, brow: float = 0.0) -> np.ndarray:
    """A mesh [T, 620, 3] of a face 100 pixels wide whose lips are so far apart, in distances between the eyes."""
    points = np.zeros((len(apart), 620, 3), np.float32)
    points[:, 263, 0] = points[:, talking.EYES[0], 0] = 100
    points[:, 33, 0] = points[:, talking.EYES[1], 0] = 0
    points[:, talking.LOWER, 1] = 100 * apart[:, None]
    points[:, talking.BROWS[0], 0] = 100
    points[::2, talking.BROWS[0], 1] = points[::2, talking.BROWS[1], 1] = -100 * brow
    return points


def clip_of(apart: np.ndarray, sound: Path, brow: float = 0.0) -> Clip:
    clip = Clip([np.zeros((256, 256, 3), np.uint8)] * len(apart), sound=sound)
    clip.keep("mesh", lambda: type("Track", (), {"points": mesh(apart, brow), "found": np.ones(len(apart), bool)})())
    return clip


def test_sync_measures_see_a_shift_and_a_wrong_sentence_and_not_a_codec(
    tmp_path: Path, net: VoiceNet, said: Speech, heard: Hearing
) -> None:
    """Shifts of 40 and 120 ms are found to the frame; another sentence agrees with nothing; a codec changes little."""
    truth = talking.opening(said.mouth)
    sound = wav(tmp_path / "said.wav", said.audio)
    clip = clip_of(truth, sound)
    assert talking.lip_offset(clip) == 0 and (plain := talking.lip_agreement(clip)) > 0.9
    for frames in (1, 3, -3):
        late = clip_of(np.roll(truth, frames), sound)
        assert talking.lip_offset(late) == 40 * frames
        assert talking.lip_agreement(late) < plain - 0.08 * abs(frames)
    other = speak("The quick brown fox jumps over the lazy dog, or so they say in school today.", 7)
    wrong = clip_of(np.resize(talking.opening(other.mouth), len(truth)), sound)
    assert talking.lip_agreement(wrong) < 0.5
    for codec in voices.CODECS:
        coded = clip_of(truth, wav(tmp_path / "coded.wav", voices.coded(said.audio, codec, 48000)))
        assert talking.lip_offset(coded) == 0 and abs(talking.lip_agreement(coded) - plain) < 0.04


def test_closures_count_lips_that_close_in_time(said: Speech) -> None:
    truth = talking.opening(said.mouth)
    number, closed = talking.closures(truth, list(said.phonemes), said.rate)
    assert closed == number >= 10
    assert talking.closures(np.roll(truth, 4), list(said.phonemes), said.rate).closed < 0.7 * number
    assert talking.closures(np.maximum(truth, 0.1), [Phoneme("AA", 0, RATE)], said.rate).number == 0


def test_the_four_measures_of_theval(tmp_path: Path) -> None:
    """Lips that open as loud as the sound is agree wholly; still lips are still in silence; brows are counted."""
    random = np.random.default_rng(0)
    loud = np.concatenate([0.05 + 0.3 * random.random(50), np.zeros(25)])
    noise = np.repeat(loud, 640) * random.choice([-1, 1], 75 * 640)
    sound = wav(tmp_path / "noise.wav", noise)
    apart = np.interp(
        np.arange(75) / 25, (np.arange(60) + 0.5) / 20, np.sqrt(np.square(noise).reshape(60, 800).mean(1))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(talking.activity, "choose_voice", lambda voice: "energy")
        good, still = clip_of(apart, sound, 0.02), clip_of(np.full(75, 0.1), sound)
        assert talking.theval_lip_sync(good) < 0.05 < 0.3 < talking.theval_lip_sync(clip_of(apart.max() - apart, sound))
        assert talking.theval_silent_lips(still) < 1e-6
        shaking = clip_of(0.1 * random.random(75), sound)
        assert talking.theval_silent_lips(shaking) == pytest.approx(0.025, abs=0.01)
        assert talking.theval_lip_dynamics(still) < 1e-6 < talking.theval_lip_dynamics(good)
        assert talking.theval_brow_dynamics(good) == pytest.approx(0.02, abs=1e-4)
        assert talking.theval_brow_dynamics(still) == 0
        quiet = clip_of(apart, wav(tmp_path / "quiet.wav", np.zeros(48000)))
        assert np.isnan(talking.theval_lip_sync(quiet))


def test_mouths_of_the_world_are_what_the_net_learns() -> None:
    """A target is the world's own mouth at the moment's time."""
    track = [
        Phoneme("_", 0, 4000),
        Phoneme("AA", 4000, 8000, True),
        Phoneme("M", 8000, 9600),
        Phoneme("_", 9600, 16000),
    ]
    shown, named = recipe.labels(track, 40)
    assert np.allclose(shown[:, DELAY:].T, mouth(track, np.arange(40 - DELAY) / MOMENTS))
    assert PHONES[named[DELAY + 15]] == "AA" and PHONES[named[DELAY + 22]] == "M" and PHONES[named[0]] == "_"
    assert torch.from_numpy(shown).isfinite().all()
