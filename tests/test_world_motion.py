"""Movement and speech of the world's heads, compared with the numbers that their docstrings state."""

from fractions import Fraction
from functools import cache
from typing import get_args

import numpy as np
import pytest

from stylereel.world.factors import HIGH, INDEX, LOW, MOTION
from stylereel.world.motion import (
    BLINKS_SILENT,
    BLINKS_TALKING,
    CLOSING,
    FIXATION,
    GAZE_X_DEGREES,
    GAZE_Y_DEGREES,
    INCOMPLETE,
    LAUGH_PERIOD,
    OPENING,
    SACCADE_PER_DEGREE,
    SACCADE_SECONDS,
    Manner,
    list_phonemes,
    natural_motion,
    statistics,
)
from stylereel.world.speech import (
    RATE,
    SOUNDS,
    mouth,
    speak,
    voice,
    word_phonemes,
)

MANNERS: tuple[Manner, ...] = get_args(Manner)
FINE = Fraction(200)


def column(motion: np.ndarray, name: str) -> np.ndarray:
    return motion[:, MOTION.index(name)].astype(float)


@cache
def minutes(manner: Manner) -> list[dict[str, float]]:
    """The statistics of ten people over a minute each."""
    return [statistics(natural_motion(seed, 60 * int(FINE), FINE, manner), FINE) for seed in range(10)]


def mean(found: list[dict[str, float]], name: str) -> float:
    return float(np.mean([each[name] for each in found]))


# --- All manners


@pytest.mark.parametrize("manner", MANNERS)
def test_the_seed_decides_and_a_longer_or_denser_clip_holds_the_shorter(manner: Manner) -> None:
    short = natural_motion(3, 90, manner=manner)
    assert short.shape == (90, len(MOTION)) and short.dtype == np.float32
    assert np.allclose(short, natural_motion(3, 200, manner=manner)[:90], atol=1e-6)
    assert np.allclose(short, natural_motion(3, 180, Fraction(50), manner)[::2], atol=1e-5)
    assert not np.array_equal(short, natural_motion(4, 90, manner=manner))
    limits = [INDEX[name] for name in MOTION]
    assert (short >= LOW[limits]).all() and (short <= HIGH[limits]).all()


def test_an_unknown_manner_is_explained() -> None:
    with pytest.raises(ValueError, match="talking, listening"):
        natural_motion(0, 10, manner="singing")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="two seconds"):
        statistics(natural_motion(0, 20))


# --- Lids


def test_blinks_come_as_often_as_people_blink_and_last_as_long() -> None:
    silent, talking = minutes("still"), minutes("talking")
    assert mean(silent, "blinks a minute") == pytest.approx(BLINKS_SILENT, rel=0.2)
    assert mean(talking, "blinks a minute") == pytest.approx(BLINKS_TALKING, rel=0.2)
    assert mean(silent, "closing") == pytest.approx(CLOSING, abs=0.02)
    assert mean(silent, "opening") == pytest.approx(OPENING, abs=0.04)
    assert mean(silent, "incomplete blinks") == pytest.approx(INCOMPLETE, abs=0.1)


# --- Eyes


def gaze(motion: np.ndarray) -> np.ndarray:
    """Direction of the eyes in space [T, 2], degrees right and up."""
    right = GAZE_X_DEGREES * column(motion, "gaze_x") + column(motion, "yaw")
    return np.stack([right, column(motion, "pitch") - GAZE_Y_DEGREES * column(motion, "gaze_y")], 1)


def test_saccades_follow_the_main_sequence_and_fixations_last_a_third_of_a_second() -> None:
    rate = 2000
    eyes = gaze(natural_motion(1, 30 * rate, Fraction(rate), "listening"))
    moving = np.hypot(*(np.diff(eyes, axis=0).T * rate)) > 3
    edges = np.flatnonzero(np.diff(np.concatenate([[0], moving.astype(int), [0]])))
    starts, ends = edges[::2], edges[1::2]
    sizes = np.hypot(*(eyes[ends] - eyes[starts]).T)
    seconds = (ends - starts) / rate
    large = sizes > 2
    assert large.sum() > 20
    expected = SACCADE_SECONDS + SACCADE_PER_DEGREE * sizes[large]
    assert np.median(seconds[large] / expected) == pytest.approx(1, abs=0.15)
    assert mean(minutes("listening"), "fixation") == pytest.approx(FIXATION, rel=0.1)


def test_eyes_turn_against_the_head_while_they_fixate() -> None:
    for manner in ("talking", "listening"):
        assert mean(minutes(manner), "reflex gain") == pytest.approx(1, abs=0.02)


def test_listeners_look_at_the_partner_more_than_speakers() -> None:
    def away(manner: Manner) -> float:
        eyes = np.concatenate([gaze(natural_motion(seed, 1500, manner=manner)) for seed in range(8)])
        return float((np.hypot(*eyes.T) > 5).mean())

    assert away("listening") < 0.5 * away("talking") < 0.2


# --- Head


def test_speakers_move_the_head_faster_than_listeners_at_speeds_of_conversation() -> None:
    talking, listening, still = minutes("talking"), minutes("listening"), minutes("still")
    assert 3 < mean(talking, "yaw speed") < 8
    assert mean(talking, "fast yaw speed") < 40
    assert mean(still, "yaw speed") < 0.6 * mean(talking, "yaw speed")
    assert mean(listening, "yaw speed") < 0.6 * mean(talking, "yaw speed")


def test_head_power_falls_with_frequency_without_a_favourite() -> None:
    assert -4 < mean(minutes("talking"), "spectrum slope") < -1.5


def test_listeners_nod_in_cycles_of_nodding_speed() -> None:
    def power(manner: Manner) -> float:
        """Share of the pitch's speed between 1.5 and 4 Hz."""
        total = within = 0.0
        for seed in range(6):
            speed = np.diff(column(natural_motion(seed, 3000, Fraction(50), manner), "pitch"))
            spectrum, frequency = np.abs(np.fft.rfft(speed)) ** 2, np.fft.rfftfreq(len(speed), 1 / 50)
            total += spectrum.sum()
            within += spectrum[(frequency > 1.5) & (frequency < 4)].sum()
        return within / total

    assert power("listening") > 1.5 * power("still")


def test_stress_and_nods_go_together() -> None:
    """The head is lower in the middle of stressed syllables than next to them."""
    dips = []
    for seed in range(12):
        pitch = column(natural_motion(seed, 3000, Fraction(100)), "pitch")
        for p in list_phonemes(seed, 30):
            middle = (p.start + p.end) * 50 // RATE
            if p.stressed and 50 < middle < 2950:
                dips.append(pitch[middle] - 0.5 * (pitch[middle - 24] + pitch[middle + 24]))
    assert np.mean(dips) < -4 * np.std(dips) / np.sqrt(len(dips))


# --- Laughter, expressions, turns


def test_laughter_opens_the_mouth_in_its_rhythm_with_the_head_back_and_the_eyes_narrow() -> None:
    rate = 100
    motion = natural_motion(2, 20 * rate, Fraction(rate), "laughing")
    jaw, smile = column(motion, "jaw"), column(motion, "smile")
    laughing = smile > 0.6
    assert 0.2 < laughing.mean() < 0.8
    peaks = np.flatnonzero((jaw[1:-1] > jaw[:-2]) & (jaw[1:-1] >= jaw[2:]) & laughing[1:-1])
    assert np.median(np.diff(peaks)) / rate == pytest.approx(LAUGH_PERIOD, abs=0.015)
    for name, least in (("pitch", 2), ("blink_left", 0.2), ("jaw", 0.15)):
        assert column(motion, name)[laughing].mean() > column(motion, name)[smile < 0.3].mean() + least
    notes = [p for p in list_phonemes(2, 20, "laughing") if p.name == "AH"]
    heard = np.array([(p.start + p.end) / 2 / RATE for p in notes])
    assert all(np.abs(heard - (peak + 1) / rate).min() < 0.03 for peak in peaks), "each opening has its sound"


def test_expressions_rise_hold_and_fall() -> None:
    motion = natural_motion(5, 3000, Fraction(50), "expressions")
    for name in ("smile", "pucker", "brow_left"):
        track = column(motion, name)
        assert np.ptp(track) > 0.5
        assert np.abs(np.diff(track)).max() * 50 < 6, "no expression appears within 0.2 s"
    assert column(natural_motion(5, 3000, Fraction(50), "still"), "pucker").max() == 0


def test_turns_of_a_conversation_alternate() -> None:
    jaw = np.concatenate([column(natural_motion(seed, 1500, manner="conversation"), "jaw") for seed in range(4)])
    quiet = np.convolve(jaw, np.ones(13) / 13, "valid") < 0.01
    turns = int((np.diff(quiet.astype(int)) == 1).sum())
    assert 0.2 < quiet.mean() < 0.7
    assert 4 * 6 < turns < 4 * 35, "a minute holds some 15 turns"


# --- Speech


def test_text_becomes_phonemes() -> None:
    assert len(SOUNDS) == 40
    assert word_phonemes("thinking") == "TH IH N K IH NG".split()
    assert word_phonemes("nation") == "N EY SH AH N".split()
    assert word_phonemes("knight") == "N AY T".split()
    assert word_phonemes("you") == ["Y", "UW"]
    names = [p.name for p in speak("Room 2, please!").phonemes]
    assert names == "_ R UW M T UW _ P L IY Z _".split()
    for text in ("the quick brown fox jumps over a lazy dog", "it's o'clock", "xyzzy bbb rhythm"):
        assert {p.name for p in speak(text).phonemes} <= set(SOUNDS)
    with pytest.raises(ValueError, match="some words"):
        speak(" ... ")


def test_phonemes_follow_each_other_to_the_sample_and_the_sound_fits() -> None:
    speech = speak("My mother makes a map.", 4, Fraction(30))
    assert speech.phonemes[0].start == 0
    assert all(a.end == b.start for a, b in zip(speech.phonemes, speech.phonemes[1:], strict=False))
    assert len(speech.audio) == speech.phonemes[-1].end
    assert len(speech.mouth) == -(-len(speech.audio) * 30 // RATE)
    assert np.abs(speech.audio).max() <= 1
    second = speak("My mother makes a map.", 4, Fraction(30))
    assert np.array_equal(speech.audio, second.audio) and np.array_equal(speech.mouth, second.mouth)
    assert not np.array_equal(speech.audio[:8000], speak("My mother makes a map.", 5).audio[:8000])


def test_the_mouth_reaches_what_each_sound_needs() -> None:
    speech = speak("Mama saw two boats. Papa fed a moose.")
    middle = np.array([(p.start + p.end) / 2 / RATE for p in speech.phonemes])
    shape = mouth(speech.phonemes, middle)
    for p, (jaw, pucker, press, _, funnel) in zip(speech.phonemes, shape, strict=True):
        if p.name in "MBP":
            assert press > 0.95 and jaw < 0.2, "lips meet"
        elif p.name in ("AA", "AO"):
            assert jaw > 0.3 and press < 0.2
        elif p.name == "UW":
            assert pucker > 0.5
        if p.name == "AO":
            assert funnel > 0.4 and pucker < 0.3, "round and open"
        elif p.name == "F":
            assert 0.4 < press < 0.8, "lip and teeth meet"
        elif p.name == "_":
            assert jaw < 0.1 and pucker < 0.1
    track = mouth(speech.phonemes, np.arange(0, 2, 0.01))
    assert np.abs(np.diff(track[:, 0])).max() < 0.08, "the jaw moves smoothly"


def test_neighbours_colour_a_sound() -> None:
    """The T of `two` is rounder than that of `tea`: coarticulation."""

    def pucker_of_t(text: str) -> float:
        track = speak(text).phonemes
        p = next(p for p in track if p.name == "T")
        return float(mouth(track, np.array([(p.start + p.end) / 2 / RATE]))[0, 1])

    assert pucker_of_t("two") > pucker_of_t("tea") + 0.1


def test_each_class_of_sound_sounds_as_it_should() -> None:
    speech = speak("See, papa, shoes.", 1)
    pieces: dict[str, np.ndarray] = {}
    for p in speech.phonemes:
        pieces.setdefault(p.name, speech.audio[p.start + 200 : p.end - 200].astype(float))

    def centre(name: str) -> float:
        power = np.abs(np.fft.rfft(pieces[name])) ** 2
        return float((np.fft.rfftfreq(len(pieces[name]), 1 / RATE) * power).sum() / power.sum())

    def loudness(name: str) -> float:
        return float(np.sqrt((pieces[name] ** 2).mean()))

    assert loudness("_") < 0.002 < 0.05 < loudness("AH")
    assert np.sqrt((pieces["P"][:600] ** 2).mean()) < 0.2 * loudness("AH"), "a closure is silent"
    assert centre("S") > 4000 > centre("SH") > 2000 > centre("AH")


@pytest.mark.parametrize("name", ["AA", "IY", "UW", "AE"])
def test_vowels_have_their_formants(name: str) -> None:
    from stylereel.world.speech import Phoneme

    flat = [Phoneme(name, 0, RATE)]
    power = np.mean([np.abs(np.fft.rfft(voice(flat, RATE, seed)[4000:12000])) ** 2 for seed in range(30)], 0)
    frequency = np.fft.rfftfreq(8000, 1 / RATE)
    smooth = np.convolve(power, np.hanning(160) / 80, "same")
    low = frequency < 1200 if name in ("IY", "UW") else frequency < 900
    low &= frequency > 150
    first = frequency[low][smooth[low].argmax()]
    assert first == pytest.approx(1.09 * SOUNDS[name].formants[0], rel=0.25)


def test_talking_without_a_text_moves_the_mouth_as_it_sounds() -> None:
    phonemes = list_phonemes(6, 8)
    motion = natural_motion(6, 200)
    shape = mouth(phonemes, np.arange(200) / 25)
    assert np.corrcoef(column(motion, "jaw"), shape[:, 0])[0, 1] > 0.98
    given = natural_motion(6, 200, phonemes=speak("Hello there, how are you?").phonemes)
    assert column(given, "jaw")[:40].max() > 0.3 and column(given, "jaw")[-60:].max() < 0.02


def test_espeak_says_each_phoneme_when_its_sound_is_heard() -> None:
    """Only where the library is installed: silence is silent, S hisses, and the letters are those of the text."""
    from stylereel.world import espeak

    try:
        speech = espeak.speak("See, papa, shoes.")
    except ValueError as error:
        pytest.skip(str(error))
    assert "S IY _ P AA P AH _ SH UW Z" in " ".join(p.name for p in speech.phonemes)
    assert all(a.end == b.start for a, b in zip(speech.phonemes, speech.phonemes[1:], strict=False))
    assert len(speech.audio) == speech.phonemes[-1].end
    for p in speech.phonemes:
        piece = speech.audio[p.start : p.end].astype(float)
        if p.name == "_" and p.end - p.start > 400:
            assert np.sqrt((piece[200:-200] ** 2).mean()) < 0.02
        if p.name in ("S", "SH"):
            power = np.abs(np.fft.rfft(piece)) ** 2
            assert (np.fft.rfftfreq(len(piece), 1 / RATE) * power).sum() / power.sum() > 2000
