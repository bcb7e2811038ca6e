"""Speech of many voices with its exact phonemes, and what rooms, noises, codecs and lines do to it: data for `voice`.

Voices: the world's own; eSpeak NG, Flite and hibari where they are installed. Their phonemes come from the
synthesisers themselves, hibari's from an aligner.
"""

from __future__ import annotations

import importlib
import io
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import av
import numpy as np
from scipy.io import wavfile
from scipy.signal import butter, fftconvolve, lfilter, resample_poly, sosfilt

from stylereel.world import alignment, espeak, speech
from stylereel.world.speech import RATE, SOUNDS, Phoneme

ACCENTS = ("en-us", "en-us", "en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029", "en-us-nyc")
VARIANTS = (
    "", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+f1", "+f2", "+f3", "+f4", "+Annie", "+Andy", "+croak", "+klatt2",
    "+Michael", "+Lee", "+linda", "+steph", "+whisper",
)  # fmt: skip
FLITE = ("rms", "slt", "awb")
HELD_OUT = ("en-us+m7", "en-us+f5", "en-us+Gene", "en-us+grandma")  # of eSpeak, for measuring

_NOUNS = """people paper mother father baby boat book bubble piano window water woman world river garden bridge problem
summer number member system market body copy puppy map lamp pump beach film film-maker voice flower fire family picture
music morning evening movie camera shop fish chair church joke judge teacher yellow-bird wheel whale wolf ear air
house tooth mouth bathroom leather weather brother thing song ring king yogurt university uncle onion apple office
orange island arm eye idea oven ocean elephant umbrella winter kitchen chicken dog duck tiger zoo zebra visitor museum
measure pleasure garage treasure television toy boy coin noise hour cloud crowd""".split()
_ADJECTIVES = """big small blue brown public popular important impossible simple warm wide white wonderful young yellow
beautiful happy heavy huge human early easy open old other usual unusual funny perfect private purple powerful frozen
famous friendly smooth rough quick quiet pale brave cheap rich poor bitter better bad good huge loud new""".split()
_VERBS = """bought brought made moved found followed passed pushed pulled helped kept left loved watched wanted waved
washed chose judged showed opened closed covered answered asked used knew threw drew saw sold built broke painted
picked placed planned promised proved published remembered reported visited imagined examined enjoyed
measured""".split()
_PLACES = """in under above beside behind before between across around over by from with without near below beyond
through""".split()
_OPENERS = """maybe;of course;in my opinion;well;oh;by the way;every now and then;yes;no;honestly;for example;
from time to time;a few weeks ago;tomorrow morning;this afternoon;after lunch;before we go""".replace("\n", "").split(
    ";"
)
_ENDS = """isn't that right;do you remember;how about you;what do you think;who would believe it;as far as i know;
i am sure;why not;where are we now;would you help me please;you have to move;we both love music;give me five more
minutes;put your shoes on;it was nobody's fault;my name is on the paper""".replace("\n", " ").split(";")


def sentence(random: np.random.Generator) -> str:
    """Something English to say; every word is in common dictionaries."""

    def one(words: Sequence[str]) -> str:
        return str(random.choice(words)).strip().replace("-", " ")

    parts = []
    if random.random() < 0.4:
        parts.append(one(_OPENERS) + ",")
    parts.append(f"the {one(_ADJECTIVES)} {one(_NOUNS)} {one(_VERBS)} {random.choice(['the', 'a', 'my', 'our'])}")
    parts.append(f"{one(_ADJECTIVES)} {one(_NOUNS)} {one(_PLACES)} the {one(_NOUNS)}")
    if random.random() < 0.4:
        parts[-1] += ","
        parts.append(one(_ENDS))
    return " ".join(parts) + random.choice([".", ".", "?", "!"])


class Said(NamedTuple):
    """Speech: who says it, samples [N] float32 at 16 kHz, phonemes without gaps."""

    voice: str
    samples: np.ndarray
    phonemes: list[Phoneme]


def synthesisers() -> dict[str, Callable[[np.random.Generator], Said]]:
    """What can speak on this machine, by name."""
    found: dict[str, Callable[[np.random.Generator], Said]] = {"own": _own}
    try:
        espeak.speak("one")
        found["espeak"] = _espeak
    except ValueError:
        pass
    if shutil.which("flite"):
        found["flite"] = _flite
    try:
        _hibari()
        alignment.align(np.zeros(RATE, np.float32), "")
    except ImportError:
        return found
    except ValueError as error:
        if "PocketSphinx" in str(error):
            return found
    return found | {"hibari": _hibari_says}


def _own(random: np.random.Generator) -> Said:
    seed = int(random.integers(2**31))
    if random.random() < 0.5:
        said = speech.speak(sentence(random), seed)
        return Said("own", said.audio, list(said.phonemes))
    length = int(random.uniform(2, 5) * RATE)
    track = speech.babble(random, round(0.15 * RATE), length)
    track = [Phoneme("_", 0, track[0].start), *track]
    return Said("own", speech.voice(track, length, seed), track)


def _espeak(random: np.random.Generator) -> Said:
    voice = f"{random.choice(ACCENTS)}{random.choice(VARIANTS)}"
    said = espeak.speak(
        sentence(random), voice, words_a_minute=int(random.uniform(120, 230)), pitch=int(random.uniform(20, 85))
    )
    return Said(voice, said.audio, list(said.phonemes))


# What Flite and Festival call phonemes, where ARPABET has another name.
_NAMES = {"AX": "AH", "AXR": "ER", "IX": "IH", "UX": "UW", "EL": "L", "EM": "M", "EN": "N", "NX": "N"}


def phoneme(name: str, start: int, end: int) -> Phoneme:
    """A phoneme as Flite and Festival name it; what is none is silence."""
    name = _NAMES.get(name.upper(), name.upper())
    name = name if name in SOUNDS else "_"
    return Phoneme(name, start, end, alignment.is_long(name, end - start))


def _flite(random: np.random.Generator) -> Said:
    voice = str(random.choice(FLITE))
    text, pace = sentence(random), f"duration_stretch={random.uniform(0.8, 1.3):.2f}"
    with TemporaryDirectory() as folder:
        path = Path(folder) / "said.wav"
        command = ["flite", "-voice", voice, "-psdur", "--setf", pace, "-t", text, "-o", str(path)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rate, sound = wavfile.read(path)
    samples = resample_poly(sound / 32768, RATE, rate) if rate != RATE else sound / 32768
    track: list[Phoneme] = []
    for pair in shown.split():
        name, end = pair.rsplit(":", 1)
        track.append(phoneme(name, track[-1].end if track else 0, round(float(end) * RATE)))
    return Said(voice, samples.astype(np.float32), track)


@cache
def _hibari() -> Any:
    return importlib.import_module("hibari").Hibari()


def _hibari_says(random: np.random.Generator) -> Said:
    text = sentence(random)
    sound = _hibari()(text, speed=float(random.uniform(0.75, 1.25)), seed=int(random.integers(2**31)))
    samples = resample_poly(sound, RATE, 24000).astype(np.float32)
    return Said("hibari", samples, alignment.align(samples, text))


def say_many(seed: tuple[int, ...], count: int) -> Iterator[Said]:
    """Utterances of all synthesisers in turn."""
    speakers = list(synthesisers().values())
    for index in range(count):
        random = np.random.default_rng((*seed, index))
        try:
            yield speakers[index % len(speakers)](random)
        except ValueError:  # a word that the aligner lacks, or a sentence that it does not find
            continue


# --- What happens to sound on the way

Codec = Literal["libopus", "mp3"]
CODECS: tuple[Codec, ...] = ("libopus", "mp3")
BIT_RATES = (12000, 16000, 24000, 32000)
_FORMS = {"libopus": "ogg", "mp3": "mp3"}


def disturb(samples: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Speech [N] as it may arrive: a room, noise, a line, a codec, any loudness."""
    sound: Any = samples.astype(np.float64)
    if random.random() < 0.45:
        sound = _room(sound, random)
    if random.random() < 0.25:  # a microphone's colour
        sound = lfilter([1, random.uniform(-0.6, 0.6)], [1], sound)
    level = np.sqrt(np.mean(sound**2)) + 1e-6
    if random.random() < 0.75:
        sound = sound + level * 10 ** (-random.uniform(3, 45) / 20) * _noise(len(sound), random)
    if random.random() < 0.2:  # a telephone, or old recordings
        edges = [random.uniform(60, 300), random.uniform(3000, 3900)]
        sound = sosfilt(butter(4, edges, "bandpass", fs=RATE, output="sos"), sound)
    elif random.random() < 0.2:
        sound = sosfilt(butter(4, random.uniform(4000, 7800), fs=RATE, output="sos"), sound)
    peak = np.abs(sound).max() + 1e-6
    if random.random() < 0.15:  # a recording that is too loud
        sound = np.tanh(sound / peak * random.uniform(1, 4))
        peak = 1.0
    sound = sound / peak * 10 ** (-random.uniform(0, 30) / 20)
    if random.random() < 0.2:
        codec = CODECS[int(random.integers(len(CODECS)))]
        sound = coded(sound, codec, int(random.choice(BIT_RATES)))
    return sound.astype(np.float32)


def _room(sound: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Reverberation by noise that decays by 60 dB in 0.1 to 0.8 s, after the direct sound."""
    seconds = random.uniform(0.1, 0.8)
    time = np.arange(int(seconds * RATE)) / RATE
    tail = random.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    tail = lfilter([0.5, 0.5], [1], tail) / np.sqrt((tail**2).sum())
    tail[0] = 0
    tail = 10 ** (-random.uniform(0, 20) / 20) * tail
    tail[0] = 1
    return fftconvolve(sound, tail)[: len(sound)]


def _noise(count: int, random: np.random.Generator) -> np.ndarray:
    """Noise of unit power: white to brown, or hum, or music."""
    kind = random.random()
    if kind < 0.7:
        spectrum = np.fft.rfft(random.standard_normal(count))
        spectrum /= np.maximum(np.arange(len(spectrum)), 5) ** random.uniform(0, 1.2)
        found = np.fft.irfft(spectrum, count)
    elif kind < 0.8:
        time = np.arange(count) / RATE
        found = sum(np.sin(2 * np.pi * n * random.choice([50, 60]) * time) / n for n in range(1, 8))
    else:
        found = music(count, random)
    return found / (np.sqrt(np.mean(found**2)) + 1e-9)


def music(count: int, random: np.random.Generator) -> np.ndarray:
    """Notes and chords that begin hard and fade, with a beat: sound that is no speech."""
    found = np.zeros(count)
    for _ in range(int(count / RATE * random.uniform(2, 8)) + 1):
        begin = int(random.integers(count))
        time = np.arange(min(count - begin, int(random.uniform(0.1, 1.5) * RATE))) / RATE
        shape = np.exp(-time * random.uniform(1, 12))
        if random.random() < 0.25:
            note = random.standard_normal(len(time))
        else:
            pitch = 55 * 2 ** (random.integers(0, 48) / 12)
            note = sum(np.sin(2 * np.pi * n * pitch * time) / n ** random.uniform(1, 2) for n in range(1, 9)
                       if n * pitch < RATE / 2)  # fmt: skip
        found[begin : begin + len(time)] += random.uniform(0.2, 1) * shape * note
    return found


def coded(sound: np.ndarray, codec: Codec, bit_rate: int) -> np.ndarray:
    """Sound [N] at 16 kHz that went through a codec, as long as before and in time."""
    held = io.BytesIO()
    with av.open(held, "w", format=_FORMS[codec]) as target:
        stream: Any = target.add_stream(codec, rate=RATE)
        stream.codec_context.layout = "mono"
        stream.codec_context.bit_rate = bit_rate
        resampler = av.AudioResampler(stream.codec_context.format, "mono", RATE, 0)
        frame = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), "fltp", "mono")
        frame.sample_rate = RATE
        for part in resampler.resample(frame):
            target.mux(stream.encode(part))
        target.mux(stream.encode(None))
    held.seek(0)
    with av.open(held, "r") as source:
        resampler = av.AudioResampler("fltp", "mono", RATE)
        parts = [out.to_ndarray()[0] for frame in source.decode(audio=0) for out in resampler.resample(frame)]
    decoded = np.concatenate(parts)
    late = delay(sound, decoded)
    decoded = np.pad(decoded[max(0, late) :], (max(0, -late), 0))[: len(sound)]
    return np.pad(decoded, (0, len(sound) - len(decoded)))


def delay(before: np.ndarray, after: np.ndarray, most: int = 3200) -> int:
    """Samples by which `after` is late."""
    count = 1 << (len(before) + len(after)).bit_length()
    cross = np.fft.irfft(np.fft.rfft(after, count) * np.conj(np.fft.rfft(before, count)), count)
    cross = np.concatenate([cross[-most:], cross[: most + 1]])
    return int(cross.argmax()) - most
