"""Natural movement for the world's heads: how people hold, turn and nod the head, look, blink, speak and laugh.

Every number has its source here or is called ours. Where we had the paper's abstract or text at hand the source is
given plainly; a star * marks numbers quoted from memory of the paper, to be checked before they are cited.

Blinks: 17 a minute at rest, 26 in conversation (Bentivoglio et al. 1997, 150 people); listeners are given the rate of
rest, inside the 8 to 21 of silent gaze of Doughty 2001. Lids close in about 0.1 s (Stern et al. 1984) and a blink
lasts 0.33 s in all (VanderWerf et al. 2003*), so opening is the slower half, as in Sforza et al. 2008. A quarter stays
incomplete: counts go from 4 to 7 % (Chu et al. 2014) to 53 % (Ousler et al. 2014).

Eyes: a saccade takes 25 ms and 2.35 ms a degree (Lee, Badler and Badler 2002: 20 to 30, 2 to 2.7). Sizes of looks away
are exponential with mean 6.9 degrees; speakers look at the partner for 3.1 s and away for 0.93 s on average,
listeners 7.9 and 0.43 s (Lee et al. 2002*). In between fixations last 0.33 s on average (Rayner 1998*, scenes). While
a fixation lasts, the eyes turn against the head with a gain of 1 (the vestibulo-ocular reflex).

Head: turns take part in looks away and begin 40 ms after the eyes (ours). Small movement has no favourite speed: its
power falls between 1/f and 1/f2 up to 3 Hz, with shifts of posture every few seconds in all like 1/f3 (ours). It is
strong when speaking and weak when listening, as speakers move the head nearly all the time (90 %) and listeners
seldom (13 %; Hadar et al. 1983*). Speeds are ours: a median yaw of 3 to 8 degrees a second when speaking. Speakers
nod with stressed syllables (Hadar et al. 1983*); listeners nod in one to three cycles of 1.8 to 3.7 a second* that
get smaller (Mori et al. 2025), eight times a minute (ours).

Turns of a conversation last 1.7 s on average (Levinson and Torreira 2015*) with gaps of 0.2 s (Stivers et al. 2009*);
six laughs in ten minutes (Vettin and Todt 2004*). Laughter: notes of 75 ms every 210 ms that get weaker (Provine and
Yong 1991), with the head thrown back and the eyes narrowed (Ruch and Ekman 2001*). Smiles and other expressions rise
in 0.4 to 0.7 s, and last 0.7 to 4 s in all (felt smiles: Ekman and Friesen 1982*).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Literal, get_args

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks, welch

from stylereel.world.factors import HIGH, INDEX, LOW, MOTION
from stylereel.world.speech import RATE, Phoneme, babble, mouth

Manner = Literal["talking", "listening", "laughing", "conversation", "expressions", "still"]
Span = tuple[float, float, str]  # start and end in seconds; talk, listen, laugh or rest

BLINKS_TALKING, BLINKS_SILENT = 26, 17  # a minute
CLOSING, OPENING = 0.10, 0.23  # seconds
INCOMPLETE = 0.25
SACCADE_SECONDS, SACCADE_PER_DEGREE = 0.025, 0.00235
FIXATION = 0.33  # seconds
LAUGH_PERIOD, LAUGH_NOTE = 0.21, 0.075  # seconds
# Degrees of eye in head at gaze 1: the distance of the iris on the drawn eyeball.
GAZE_X_DEGREES, GAZE_Y_DEGREES = 37.0, 22.0

_AHEAD = 4.0  # seconds generated beyond the end, so that a longer clip begins like a shorter one
# What people show in company.
_SMILES = (
    {"smile": 0.9, "cheek": 0.45},
    {"smile": 0.55, "cheek": 0.15, "brow_left": 0.3, "brow_right": 0.3},
)
# What somebody who makes faces shows, as if the left side led; "blink" and "brows" are of both eyes, pitch, yaw, roll
# and the gaze away from the partner in degrees, "beats" the notes of a laugh.
_FACES: dict[str, dict[str, float]] = {
    "surprise": {"brows": 1.0, "jaw": 0.50, "funnel": 0.25, "pitch": 3},
    "joy": {"smile": 0.95, "cheek": 0.70, "roll": 4},
    "laughing": {"smile": 1.0, "cheek": 0.9, "jaw": 0.30, "beats": 0.4, "brows": 0.2, "pitch": 7, "blink": 0.15},
    "anger": {"brows": -1.0, "press": 0.55, "cheek": 0.30, "smile": -0.2, "pitch": -4},
    "sadness": {"smile": -0.6, "brows": 0.45, "pitch": -7, "roll": -4, "gaze_y": -8, "blink": 0.15},
    "disgust": {"brows": -0.7, "cheek": 0.8, "smile": -0.45, "smile_side": 0.3, "jaw": 0.12, "yaw": 8, "pitch": 4},
    "kiss": {"pucker": 1.0, "brows": 0.2, "blink": 0.75, "pitch": 3},
    "wink": {"blink_left": 1.0, "cheek": 0.35, "smile": 0.55, "smile_side": 0.5, "jaw": 0.08, "roll": 6},
    "pout": {"pucker": 0.6, "smile": -0.55, "brows": -0.5, "pitch": -5},
    "puffed cheeks": {"cheek": -1.0, "press": 0.45, "brows": 0.5},
    "smirk": {"smile": 0.25, "smile_side": 0.9, "brow_left": 0.35, "yaw": -7},
    "doubt": {"brow_left": 0.95, "brow_right": -0.5, "smile_side": -0.45, "press": 0.25, "roll": -5},
    "oh": {"funnel": 0.95, "jaw": 0.40, "brows": 0.6},
    "chewing": {"jaw_side": 0.95, "jaw": 0.22, "brows": 0.2, "gaze_x": 12},
    "yawn": {"jaw": 0.95, "blink": 0.85, "cheek": 0.3, "brows": 0.35, "pitch": 8},
    "looking round": {"yaw": 24, "gaze_x": 33, "pitch": 4, "gaze_y": 6, "brows": 0.15},
}


def natural_motion(
    seed: int,
    num_frames: int,
    rate: Fraction = Fraction(25),
    manner: Manner = "talking",
    phonemes: Sequence[Phoneme] | None = None,
) -> np.ndarray:
    """Motion values [T, 20] float32 (order of `factors.MOTION`) of a person who behaves in a manner.

    `phonemes` are what the person says; without them a speaker babbles (see `list_phonemes`). The same seed gives the
    same motion; more frames continue it, and another rate samples it at other times.
    Raises ValueError for an unknown manner.
    """
    until = num_frames / float(rate) + _AHEAD
    t = np.arange(num_frames) / float(rate)
    spans: list[Span] = [(0.0, until, "talk")] if phonemes is not None else _turns(seed, until, manner)
    said = _sounds(seed, spans) if phonemes is None else list(phonemes)
    track = {name: np.zeros(num_frames) for name in MOTION}
    track["scale"] += 1
    _head(track, seed, t, until, spans)
    _looks(track, seed, t, until, spans)
    _expressions(track, seed, t, until, spans, often=manner == "expressions")
    _speech(track, seed, t, said, spans)
    _laughs(track, seed, t, spans)
    _blinks(track, seed, t, until, spans)
    track["gaze_x"] = (track["gaze_x"] - track["yaw"]) / GAZE_X_DEGREES
    track["gaze_y"] = (track["pitch"] - track["gaze_y"]) / GAZE_Y_DEGREES  # an image's y goes down
    values = np.stack([track[name] for name in MOTION], axis=1)
    limits = [INDEX[name] for name in MOTION]
    return np.clip(values, LOW[limits], HIGH[limits]).astype(np.float32)


def list_phonemes(seed: int, seconds: float, manner: Manner = "talking") -> list[Phoneme]:
    """The speech and laughter of `natural_motion` of this seed and manner, for `speech.voice`; without gaps."""
    end = round(seconds * RATE)
    return [p for p in _sounds(seed, _turns(seed, seconds + _AHEAD, manner)) if p.start < end]


# --- Building blocks


def _random(seed: int, stream: str) -> np.random.Generator:
    """Each part draws from a stream of its own, in the order of time: so the end of a clip cannot change its start."""
    return np.random.default_rng((61, seed, *stream.encode()))


def _ease(x: np.ndarray) -> np.ndarray:
    """From 0 to 1 with the least jerk (Flash and Hogan 1985)."""
    x = np.clip(x, 0, 1)
    return x**3 * (10 - 15 * x + 6 * x * x)


def _pulse(t: np.ndarray, start: float, rise: float, hold: float, fall: float) -> np.ndarray:
    return _ease((t - start) / rise) - _ease((t - start - rise - hold) / fall)


def _share(t: np.ndarray, spans: list[Span], state: str, edge: float = 0.4) -> np.ndarray:
    """How far a state holds, 0..1, with soft changes."""
    total = np.zeros(len(t))
    for start, end, kind in spans:
        if kind == state and end - start > edge:
            total += _pulse(t, start - edge / 2, edge, end - start - edge, edge)
    return total


def _state(spans: list[Span], now: float) -> str:
    return next((kind for start, end, kind in spans if start <= now < end), "rest")


_CLOCK = 50  # noise values a second
_TIMES = (0.06, 0.12, 0.24, 0.48, 0.96, 1.92)  # seconds: widths of the bands of `_drift`


def _drift(random: np.random.Generator, t: np.ndarray, tilt: float = 0.35) -> np.ndarray:
    """Smooth noise of variance 1 whose power falls by about f to the -(1 + 2 tilt) between 0.1 and 3 Hz."""
    count = int(t[-1] * _CLOCK) + 2 if len(t) else 2
    pad = int(4 * _TIMES[-1] * _CLOCK)
    strengths = np.array(_TIMES) ** tilt
    total = np.zeros(count)
    white = random.standard_normal((count + 2 * pad, len(_TIMES)))
    for band, (width, strength) in enumerate(zip(_TIMES, strengths / np.linalg.norm(strengths), strict=True)):
        sigma = width * _CLOCK
        smooth = gaussian_filter1d(white[:, band], sigma, truncate=4)[pad : pad + count]
        total += strength * math.sqrt(2 * sigma * math.sqrt(math.pi)) * smooth
    return np.interp(t, np.arange(count) / _CLOCK, total)


# --- Who does what when


def _turns(seed: int, until: float, manner: str) -> list[Span]:
    if manner not in get_args(Manner):
        raise ValueError(f"There is no manner {manner}; take one of {', '.join(get_args(Manner))}.")
    random = _random(seed, "turns")
    simple = {"talking": "talk", "listening": "listen", "expressions": "rest", "still": "rest"}
    if manner in simple:
        return [(0.0, until, simple[manner])]
    spans: list[Span] = []
    now = 0.0
    while now < until:
        if manner == "laughing":
            rest, laugh = random.uniform(0.5, 1.4), random.uniform(1.2, 2.8)
            spans += [(now, now + rest, "listen"), (now + rest, now + rest + laugh, "laugh")]
        else:
            lengths = random.lognormal(math.log(1.68) - 0.18, 0.6, 2)
            for kind, length in zip(("talk", "listen"), lengths, strict=True):
                start = spans[-1][1] if spans else 0.0
                spans.append((start, start + length + 0.2, kind))
            if random.random() < 0.04:
                spans.append((spans[-1][1], spans[-1][1] + random.uniform(1.0, 2.0), "laugh"))
        now = spans[-1][1]
    return spans


def _sounds(seed: int, spans: list[Span]) -> list[Phoneme]:
    """Babble for the turns of speech, notes for the laughs, silence between."""
    random = _random(seed, "sounds")
    track: list[Phoneme] = []
    for start, end, kind in spans:
        first, last = round(start * RATE), round(end * RATE)
        if kind == "talk":
            first += round(0.15 * RATE)
            track += [Phoneme("_", first - round(0.15 * RATE), first), *babble(random, first, last)]
        elif kind == "laugh":
            for note in _notes(start, end):
                voiced = round((note - LAUGH_NOTE / 2) * RATE)
                stop = round((note + LAUGH_NOTE / 2) * RATE)
                if track and track[-1].end < voiced:
                    track.append(Phoneme("HH", max(track[-1].end, voiced - round(0.09 * RATE)), voiced))
                track.append(Phoneme("AH", voiced, stop, True))
        else:
            track.append(Phoneme("_", first, last))
    return _without_gaps(track)


def _without_gaps(track: list[Phoneme]) -> list[Phoneme]:
    filled: list[Phoneme] = []
    for phoneme in track:
        end = filled[-1].end if filled else 0
        if phoneme.start > end:
            filled.append(Phoneme("_", end, phoneme.start))
        if phoneme.end > max(end, phoneme.start):
            filled.append(Phoneme(phoneme.name, max(end, phoneme.start), phoneme.end, phoneme.stressed))
    return filled


def _notes(start: float, end: float) -> np.ndarray:
    """Times of the notes of a laugh; the last third of it is breath."""
    return np.arange(start + 0.25, start + 0.67 * (end - start), LAUGH_PERIOD)


# --- Parts of the motion


def _head(track: dict[str, np.ndarray], seed: int, t: np.ndarray, until: float, spans: list[Span]) -> None:
    """Posture that shifts every few seconds, and small movement everywhere; nods of a listener."""
    activity = 0.22 + 0.78 * _share(t, spans, "talk") + 0.18 * _share(t, spans, "listen")
    for name, spread in (("yaw", 2.4), ("pitch", 1.7), ("roll", 1.3)):
        track[name] += spread * activity * _drift(_random(seed, name), t)
    for name, spread in (("shift_x", 0.008), ("shift_y", 0.005), ("scale", 0.013)):
        track[name] += spread * (0.4 + 0.6 * activity) * _drift(_random(seed, name), t, 0.8)
    random = _random(seed, "posture")
    goal = random.normal(0, (5, 2.5, 2))
    for name, value in zip(("yaw", "pitch", "roll"), goal, strict=True):
        track[name] += value
    now = 0.0
    while now < until:
        now += 0.8 + random.gamma(2, 1.1)
        size = {"talk": 1.0, "laugh": 0.8, "listen": 0.6}.get(_state(spans, now), 0.3)
        new = random.normal(0, (8 * size, 3 * size, 2.8 * size))
        move = _ease((t - now) / random.uniform(0.5, 1.1))
        for name, value, old in zip(("yaw", "pitch", "roll"), new, goal, strict=True):
            track[name] += (value - old) * move
        goal = new
    track["shift_x"] += 0.0006 * track["yaw"]
    random = _random(seed, "nods")
    now = 0.0
    while now < until:
        now += 1.5 + random.exponential(6.0)
        cycles, rate, size = random.integers(1, 4), random.uniform(1.8, 3.7), random.uniform(3, 7)
        if _state(spans, now) == "listen" and _state(spans, now + cycles / rate) == "listen":
            for cycle in range(cycles):
                phase = np.clip((t - now) * rate - cycle, 0, 1)
                track["pitch"] -= size * 0.7**cycle * np.sin(np.pi * phase) ** 2


def _looks(track: dict[str, np.ndarray], seed: int, t: np.ndarray, until: float, spans: list[Span]) -> None:
    """Gaze in space (degrees, into gaze_x and gaze_y): fixations on the partner's face, looks away; the head helps."""
    random = _random(seed, "looks")
    starts, targets = [-1.0], [(0.0, 0.0)]
    now, head, away, change = 0.0, np.zeros(2), False, random.exponential(3.1)
    while now < until:
        if now >= change:
            away = not away
            speaker, listener = (
                (random.gamma(1.2, 0.78), random.gamma(3.4, 0.126))
                if away
                else (random.exponential(3.1), max(0.5, random.normal(7.9, 1.6)))
            )
            change = now + (speaker if _state(spans, now) == "talk" else listener)
            angle = random.uniform(0, 2 * math.pi)
            size = min(3 + random.exponential(6.9), 27.5)
            centre = size * np.array([math.cos(angle), 0.6 * math.sin(angle)]) if away else np.zeros(2)
            goal = random.uniform(0.2, 0.6) * centre * (size > 5)
            for name, step in zip(("yaw", "pitch"), goal - head, strict=True):
                track[name] += step * _ease((t - now - 0.04) / (0.3 + 0.012 * size))
            head = goal
        else:
            centre = np.array(targets[-1]) if away else np.zeros(2)
        # On a face an arm's length away eyes and mouth are within some 2 degrees of its middle.
        scatter = random.normal(0, (1.7, 1.4))
        starts.append(now)
        targets.append(tuple(centre + scatter * (0.5 if away else 1.0)))
        now += SACCADE_SECONDS + max(0.08, random.lognormal(math.log(FIXATION) - 0.125, 0.5))
    place = np.array(targets)
    k = np.clip(np.searchsorted(starts, t, side="right") - 1, 1, len(starts) - 1)
    step = place[k] - place[k - 1]
    seconds = SACCADE_SECONDS + SACCADE_PER_DEGREE * np.hypot(*step.T)
    done = _ease((t - np.array(starts)[k]) / seconds)[:, None]
    track["gaze_x"], track["gaze_y"] = (place[k - 1] + step * done).T


def _expressions(
    track: dict[str, np.ndarray], seed: int, t: np.ndarray, until: float, spans: list[Span], often: bool
) -> None:
    random = _random(seed, "expressions")
    track["smile"] += 0.12 + 0.08 * random.standard_normal() + 0.05 * _drift(_random(seed, "smile"), t, 0.8)
    brows = _drift(_random(seed, "brows"), t, 0.8)
    track["brow_left"] += 0.10 * brows
    track["brow_right"] += 0.10 * brows
    # Nobody is quite even.
    for name, offset, drift in (("smile_side", 0.06, 0.03), ("jaw_side", 0.04, 0.02), ("cheek", 0.0, 0.04)):
        uneven = _random(seed, name)  # one for each: a drift draws as many numbers as the clip is long
        track[name] += uneven.normal(0, offset) + drift * _drift(uneven, t, 0.8)
    if often:
        _faces(track, seed, t, until)
        return
    now = 0.0
    while now < until:
        now += 0.4 + random.exponential(9.0)
        rise, fall, hold = random.uniform(0.4, 0.7), random.uniform(0.5, 0.9), random.gamma(2, 0.45)
        strength, chosen, side = random.uniform(0.6, 1.0), random.integers(len(_SMILES)), random.normal(0, 0.12)
        strength *= 0 if _state(spans, now) == "rest" else 0.6
        pulse = strength * _pulse(t, now, rise, min(hold, 4 - rise - fall), fall)
        for name, value in _SMILES[chosen].items():
            track[name] += value * pulse
        track["smile_side"] += side * pulse


def _faces(track: dict[str, np.ndarray], seed: int, t: np.ndarray, until: float) -> None:
    """One face after the other, in an order by chance, with short rests between."""
    random = _random(seed, "faces")
    now, left = 0.35, list[str]()
    while now < until:
        left = left or random.permutation(list(_FACES)).tolist()
        face = _FACES[left.pop()]
        rise, hold, fall = random.uniform(0.36, 0.6), random.uniform(0.45, 1.1), random.uniform(0.4, 0.7)
        strength, mirror = random.uniform(0.8, 1.0), random.random() < 0.5
        if "blink_left" in face:  # a wink is short
            hold, strength = 0.25 * hold, 1.0
        pulse = strength * _pulse(t, now, rise, hold, fall)
        for name, value in face.items():
            if name == "beats":
                notes = now + rise + LAUGH_PERIOD * np.arange(1 + int(hold / LAUGH_PERIOD))
                track["jaw"] += value * strength * _beats(t, notes)
                continue
            if name in ("brows", "blink"):
                sides = ("brow_left", "brow_right") if name == "brows" else ("blink_left", "blink_right")
                for each in sides:
                    track[each] += value * pulse
                continue
            if mirror:
                value = -value if name in ("smile_side", "jaw_side", "yaw", "roll", "gaze_x") else value
                left_right = ("left", "right") if "left" in name else ("right", "left")
                name = name.replace(*left_right)
            track[name] += value * pulse
        now += rise + hold + fall + random.uniform(0.05, 0.4)


def _beats(t: np.ndarray, notes: np.ndarray) -> np.ndarray:
    """The notes of a laugh, each weaker than the one before."""
    beats = np.zeros(len(t))
    for number, note in enumerate(notes):
        beats += 0.93**number * np.cos(0.5 * np.pi * np.clip((t - note) / (0.5 * LAUGH_PERIOD), -1, 1)) ** 2
    return beats


def _speech(track: dict[str, np.ndarray], seed: int, t: np.ndarray, said: list[Phoneme], spans: list[Span]) -> None:
    """The mouth of the phonemes, and nods and brows with some of the stressed ones."""
    speaking = [p for p in said if _state(spans, p.start / RATE) == "talk"]
    jaw, pucker, press, smile, funnel = mouth(speaking, t).T if speaking else np.zeros((5, len(t)))
    talk = _share(t, spans, "talk", 0.2)
    track["jaw"] += talk * jaw
    track["pucker"] += talk * pucker
    track["press"] += talk * press
    track["funnel"] += talk * funnel
    track["smile"] += 0.6 * talk * smile
    random = _random(seed, "stress")
    for phoneme in speaking:
        nod, brow, size = random.random(), random.random(), random.uniform(0.8, 2.6)
        if phoneme.stressed and phoneme.start / RATE < (t[-1] if len(t) else 0) + 1:
            middle = (phoneme.start + phoneme.end) / (2 * RATE)
            near = slice(*np.searchsorted(t, (middle - 0.3, middle + 0.5)))
            if nod < 0.3:
                track["pitch"][near] -= size * np.cos(0.5 * np.pi * np.clip((t[near] - middle) / 0.24, -1, 1)) ** 2
            if brow < 0.12:
                raised = 0.4 * _pulse(t[near], middle - 0.2, 0.2, 0.1, 0.35)
                track["brow_left"][near] += raised
                track["brow_right"][near] += raised


def _laughs(track: dict[str, np.ndarray], seed: int, t: np.ndarray, spans: list[Span]) -> None:
    random = _random(seed, "laughs")
    for start, end, kind in spans:
        if kind != "laugh":
            continue
        back, strength = random.uniform(5, 10), random.uniform(0.75, 1.0)
        length = end - start
        whole = strength * _pulse(t, start, 0.35, max(0.2, length - 0.6), 0.7)
        beats = _beats(t, _notes(start, end))
        track["smile"] += 0.85 * whole
        track["cheek"] += 0.7 * whole
        track["jaw"] += whole * 0.28 + 0.47 * strength * beats
        track["pitch"] += back * _pulse(t, start + 0.1, 0.5, max(0.1, 0.5 * length - 0.4), 0.9) - 0.8 * beats
        track["shift_y"] -= 0.0025 * beats
        track["brow_left"] += 0.25 * whole
        track["brow_right"] += 0.25 * whole
        track["blink_left"] += 0.3 * whole
        track["blink_right"] += 0.3 * whole


def _blinks(track: dict[str, np.ndarray], seed: int, t: np.ndarray, until: float, spans: list[Span]) -> None:
    random = _random(seed, "blinks")
    now, pause = 0.0, 0.45
    while now < until:
        now += pause + random.exponential(60 / BLINKS_TALKING - pause)
        close, open_ = random.lognormal(math.log(CLOSING), 0.15), random.lognormal(math.log(OPENING), 0.2)
        depth = random.uniform(0.45, 0.85) if random.random() < INCOMPLETE else 1.0
        if random.random() > (1 if _state(spans, now) == "talk" else BLINKS_SILENT / BLINKS_TALKING):
            continue
        # Opening starts fast and ends slowly.
        lid = depth * (_ease((t - now) / close) - _ease(np.clip((t - now - close) / open_, 0, 1) ** 0.8))
        for name in ("blink_left", "blink_right"):
            track[name] = np.maximum(track[name], lid)


# --- Measuring


def statistics(motion: np.ndarray, rate: Fraction = Fraction(25)) -> dict[str, float]:
    """Numbers of a motion [T, 20] to hold against people's; those of lids and eyes need 100 frames a second or more.

    blinks a minute, incomplete blinks (share), closing and opening (mean seconds), yaw speed (median), fast yaw speed
    (95 %), pitch speed (degrees a second), spectrum slope (of yaw's power between 0.2 and 3 Hz, log over log),
    fixation (mean seconds between saccades), reflex gain (how far the eyes turn against the head in a fixation).
    Raises ValueError for less than two seconds.
    """
    rate_ = float(rate)
    if len(motion) < 2 * rate_:
        raise ValueError(f"Statistics need two seconds of motion or more, not {len(motion)} frames at {rate}.")
    column: Callable[[str], np.ndarray] = lambda name: motion[:, MOTION.index(name)].astype(np.float64)  # noqa: E731
    closure = column("blink_left")
    peaks, _ = find_peaks(closure, prominence=0.3)
    moving = np.abs(np.diff(closure)) * rate_ > 0.5  # lid widths a second
    closing = [_length(moving[:peak][::-1]) / rate_ for peak in peaks]
    opening = [_length(moving[peak:]) / rate_ for peak in peaks]
    yaw, pitch = column("yaw"), column("pitch")
    speed = np.abs(np.gradient(yaw)) * rate_
    frequency, power = welch(yaw, rate_, nperseg=min(len(yaw), int(20 * rate_)))
    band = (frequency >= 0.2) & (frequency <= 3) & (power > 0)
    eye = column("gaze_x") * GAZE_X_DEGREES
    gaze = np.stack([eye + yaw, pitch - column("gaze_y") * GAZE_Y_DEGREES], 1)
    still = np.hypot(*(np.diff(gaze, axis=0).T * rate_)) < 20
    inside = [end - start for start, end in _runs(still) if 0 < start and end < len(still) and end - start > 1]
    turning = still & (np.abs(np.diff(yaw)) * rate_ > 2)
    gain = -np.polyfit(np.diff(yaw)[turning], np.diff(eye)[turning], 1)[0] if turning.sum() > 10 else math.nan
    return {
        "blinks a minute": 60 * len(peaks) * rate_ / len(motion),
        "incomplete blinks": float(np.mean(closure[peaks] < 0.9)) if len(peaks) else math.nan,
        "closing": float(np.mean(closing)) if len(peaks) else math.nan,
        "opening": float(np.mean(opening)) if len(peaks) else math.nan,
        "yaw speed": float(np.median(speed)),
        "fast yaw speed": float(np.quantile(speed, 0.95)),
        "pitch speed": float(np.median(np.abs(np.gradient(pitch)) * rate_)),
        "spectrum slope": float(np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0]),
        "fixation": float(np.mean(inside)) / rate_ if inside else math.nan,
        "reflex gain": float(gain),
    }


def _length(moving: np.ndarray) -> int:
    """How many steps a lid moves from its turning point on, which itself may last two."""
    if not moving.any():
        return 0
    first = int(moving.argmax())
    return first + (int((~moving[first:]).argmax()) if not moving[first:].all() else len(moving) - first)


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """First and one past the last index of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
