"""Speech for the world's heads: from text to phonemes, and from them mouth shapes and a voice that match exactly.

A phoneme track is a list of `Phoneme`s with times in whole samples at 16 kHz. `mouth` turns it into the motion values
jaw, pucker, press, smile and funnel; `voice` turns the same track into sound. So image and sound agree to the sample.
`family.voice` goes the other way, from any sound to an estimate of the mouth.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numba import njit
from scipy.ndimage import gaussian_filter1d

RATE = 16000  # samples a second
MOUTH = ("jaw", "pucker", "press", "smile", "funnel")


@dataclass(frozen=True)
class Sound:
    """A phoneme of English: its class, usual seconds, mouth target (order of `MOUTH`), formants [Hz] and noise.

    noise: centre [Hz] and strength of the friction or burst; voiced: whether the vocal folds swing.
    """

    kind: str
    seconds: float
    target: tuple[float, float, float, float, float]
    formants: tuple[float, float, float]
    noise: tuple[float, float]
    voiced: bool


# The 39 phonemes of ARPABET and silence. Vowel formants: Peterson and Barney 1952, averages of men; consonants: loci of
# the place of articulation. Milliseconds are rounded to the size of those of connected speech in Crystal and House
# 1988; mouth targets are our own, from what lip readers call visemes.
_TABLE = """
AA vowel  125  85  5   0  0  0  730 1090 2440    0  0   AE vowel  130  75  0   0 25  0  660 1720 2410    0  0
AH vowel   80  50  0   0  0  0  640 1190 2390    0  0   AO vowel  125  70 10   0  0 75  570  840 2410    0  0
AW vowel  150  70 40   0  0  0  680 1050 2400    0  0   AY vowel  150  70  0   0 20  0  660 1400 2450    0  0
EH vowel  100  55  0   0 15  0  530 1840 2480    0  0   ER vowel  110  35 15   0  0 30  490 1350 1690    0  0
EY vowel  130  45  0   0 30  0  450 2050 2550    0  0   IH vowel   75  35  0   0 15  0  390 1990 2550    0  0
IY vowel  110  25  0   0 40  0  270 2290 3010    0  0   OW vowel  135  50 30   0  0 70  480  900 2350    0  0
OY vowel  160  55 25   0  0 60  500 1100 2400    0  0   UH vowel   75  35 20   0  0 50  440 1020 2240    0  0
UW vowel  115  22 90   0  0 25  300  870 2240    0  0   P  stop    85   2  0   1  0  0  200  800 2200  900 35
B  stop+   75   2  0   1  0  0  200  800 2200  900 20   T  stop    70  15  0   0  5  0  200 1700 2600 4200 60
D  stop+   60  15  0   0  5  0  200 1700 2600 3800 30   K  stop    80  22  0   0  0  0  200 1900 2400 2000 50
G  stop+   70  22  0   0  0  0  200 1900 2400 1800 25   CH stop   125  15 15   0  0 50  250 1800 2600 3000 70
JH stop+  105  15 15   0  0 50  250 1800 2600 2800 45   F  hiss   105   8  0 .55  0  0  300 1100 2200 6000 18
V  hiss+   65   8  0 .55  0  0  300 1100 2200 6000 10   TH hiss    95  18  0   0  0  0  300 1400 2500 6500 14
DH hiss+   45  18  0   0  0  0  300 1400 2500 6000  7   S  hiss   110  10  0   0 15  0  300 1700 2600 6200 65
Z  hiss+   80  10  0   0 15  0  300 1700 2600 6000 35   SH hiss   115  14 15   0  0 60  300 1800 2500 3200 65
ZH hiss+   80  14 15   0  0 60  300 1800 2500 3000 35   HH hiss    65  40  0   0  0  0  500 1500 2500 1500 12
M  hum+    75   2  0   1  0  0  250  900 2200    0  0   N  hum+    65  18  0   0  0  0  250 1600 2600    0  0
NG hum+    75  25  0   0  0  0  250 2100 2600    0  0   L  glide+  65  30  0   0  0  0  360 1100 2600    0  0
R  glide+  65  22 25   0  0 35  330 1150 1550    0  0   W  glide+  70  15 95   0  0 10  300  650 2200    0  0
Y  glide+  60  20  0   0 25  0  270 2250 3000    0  0   _  pause  200   0  0   0  0  0  500 1500 2500    0  0
"""


def _sounds() -> dict[str, Sound]:
    words = _TABLE.split()
    table = {}
    for at in range(0, len(words), 13):
        name, kind, *numbers = words[at : at + 13]
        n = [float(number) for number in numbers]
        target = (n[1] / 100, n[2] / 100, n[3], n[4] / 100, n[5] / 100)
        voiced = kind == "vowel" or kind.endswith("+")
        table[name] = Sound(kind.rstrip("+"), n[0] / 1000, target, (n[6], n[7], n[8]), (n[9], n[10] / 100), voiced)
    return table


SOUNDS = _sounds()
_VOWELS = tuple(name for name, sound in SOUNDS.items() if sound.kind == "vowel")
_CONSONANTS = tuple(name for name, sound in SOUNDS.items() if sound.kind not in ("vowel", "pause"))


@dataclass(frozen=True)
class Phoneme:
    """One phoneme of a track: `start` and `end` in samples at 16 kHz; stressed: carries an accent."""

    name: str
    start: int
    end: int
    stressed: bool = False


@dataclass(frozen=True)
class Speech:
    """Something said: phonemes without gaps, audio [N] float32 at 16 kHz, mouth [T, 5] (order of `MOUTH`), rate."""

    phonemes: tuple[Phoneme, ...]
    audio: np.ndarray
    mouth: np.ndarray
    rate: Fraction


def speak(text: str, seed: int = 0, rate: Fraction = Fraction(25)) -> Speech:
    """Say an English text in the voice of `seed`, with one mouth shape for each frame at `rate`.

    Frame t shows the mouth at second t / rate. Raises ValueError for a text without letters or digits.
    """
    random = np.random.default_rng((67, seed))
    track: list[Phoneme] = []
    now = _add(track, "_", 0, 0.15)
    for words, pause in _phrases(text):
        for word in words:
            names = word_phonemes(word)
            accent = next((i for i, name in enumerate(names) if name in _VOWELS), -1) if len(names) > 2 else -1
            for i, name in enumerate(names):
                last = word is words[-1] and i >= len(names) - 2
                seconds = SOUNDS[name].seconds * random.lognormal(0, 0.1)
                # Stressed vowels and the ends of phrases are longer (Klatt 1976).
                seconds *= (1.15 if i == accent else 0.95) * (1.35 if last else 1.0)
                now = _add(track, name, now, seconds, i == accent)
        now = _add(track, "_", now, pause)
    audio = voice(track, now, seed)
    num_frames = math.ceil(Fraction(now, RATE) * rate)
    return Speech(tuple(track), audio, mouth(track, np.arange(num_frames) / float(rate)), Fraction(rate))


def _add(track: list[Phoneme], name: str, now: int, seconds: float, stressed: bool = False) -> int:
    end = now + round(seconds * RATE)
    track.append(Phoneme(name, now, end, stressed))
    return end


def babble(random: np.random.Generator, start: int, end: int) -> list[Phoneme]:
    """Speech-like syllables between two samples: phrases of about two seconds with pauses; every third is stressed."""
    track: list[Phoneme] = []
    now = start
    while now < end:
        phrase = now + round(random.uniform(1.0, 3.0) * RATE)
        count = 0
        while now < min(phrase, end):
            count += 1
            stressed = count % 3 == 1
            names = [random.choice(_CONSONANTS), random.choice(_VOWELS)]
            if random.random() < 0.35:
                names.append(random.choice(_CONSONANTS))
            for name in names:
                long = 1.2 if stressed and name in _VOWELS else 0.95
                now = _add(track, str(name), now, SOUNDS[name].seconds * long * random.lognormal(0, 0.15), stressed)
        now = _add(track, "_", now, random.gamma(2.5, 0.22))
    return [Phoneme(p.name, p.start, min(p.end, end), p.stressed) for p in track if p.start < end]


# --- From letters to phonemes


def check_text(text: str) -> None:
    """Raise ValueError for a text in which there is nothing to say."""
    _phrases(text)


def _phrases(text: str) -> list[tuple[list[str], float]]:
    """Lower-case words between marks, with the seconds of silence after them."""
    found = []
    for part, mark in re.findall(r"([^.,;:!?\n]+)([.,;:!?\n]*)", text.lower()):
        spelled = re.sub(r"\d", lambda digit: f" {_DIGITS[int(digit[0])]} ", part.replace("’", "'"))
        if words := re.findall(r"[a-z][a-z']*", spelled):
            found.append((words, 0.22 if mark[:1] in ("", ",", ";", ":") else 0.45))
    if not found:
        raise ValueError("The text holds no English letters or digits; give some words.")
    return found


_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Common words that the rules would get wrong.
_WORDS = {
    word: names.split()
    for word, names in (
        line.split(" ", 1)
        for line in """a AH|the DH AH|of AH V|to T UW|do D UW|you Y UW|your Y AO R|i AY|i'm AY M|are AA R|was W AH Z
is IH Z|his HH IH Z|has HH AE Z|as AE Z|have HH AE V|give G IH V|live L IH V|says S EH Z|said S EH D|one W AH N
two T UW|they DH EY|there DH EH R|their DH EH R|where W EH R|what W AH T|who HH UW|people P IY P AH L|very V EH R IY
hello HH AH L OW|world W ER L D|word W ER D|work W ER K|some S AH M|come K AH M|love L AH V|does D AH Z|done D AH N
from F R AH M|were W ER|be B IY|he HH IY|she SH IY|me M IY|we W IY|my M AY|by B AY|no N OW|so S OW|go G OW|know N OW
now N AW|how HH AW|good G UH D|look L UH K|book B UH K|could K UH D|would W UH D|should SH UH D|put P UH T
zero Z IH R OW|three TH R IY|seven S EH V AH N|eight EY T|only OW N L IY|every EH V R IY|any EH N IY|many M EH N IY
friend F R EH N D|heart HH AA R T|great G R EY T|again AH G EH N|because B IH K AH Z|this DH IH S|that DH AE T
with W IH DH|then DH EH N|than DH AE N|them DH EH M|these DH IY Z|those DH OW Z|other AH DH ER
mother M AH DH ER|today T AH D EY|and AE N D|can K AE N|will W IH L|not N AA T
for F AO R|or AO R|all AO L|want W AA N T|water W AO T ER""".replace("\n", "|").split("|")
    )
}
# What letters say, tried from the top at each place of a word: regular expressions and phonemes.
_RULES = [
    (re.compile(letters), sounds.split())
    for letters, sounds in (
        line.rpartition("=")[::2]
        for line in """tion=SH AH N;sion=ZH AH N;ture=CH ER;ough=AO;augh=AO;eigh=EY;igh=AY;tch=CH;dge?=JH;sch=S K
^kn=N;^wr=R;^ps=S;ch=CH;sh=SH;ph=F;th(?=er)=DH;th=TH;wh=W;ck=K;ng=NG;qu=K W;gh=;ee=IY;ea=IY;ei=IY;ie$=AY;ie=IY;oo=UW
ou=AW;ow$=OW;ow=AW;oi=OY;oy=OY;ai=EY;ay=EY;au=AO;aw=AO;oa=OW;ew=Y UW;ue=UW;eu=UW;ui=UW;ey$=IY;ar=AA R;er=ER;ir=ER
ur=ER;or=AO R;le$=AH L;es$=Z;ed$=D;(?<=.)e$=;a(?=[bcdfgklmnpstvz](e|i|y$))=EY;i(?=[bcdfgklmnpstvz](e|ing))=AY
o(?=[bcdfgklmnpstvz](e|ing))=OW;u(?=[bcdfgklmnpstvz](e|ing))=UW;e(?=[bdfgklmnpstvz]e$)=IY;(?<=[aeiou].)y$=IY
(?<=..)y$=IY;y$=AY;y(?=[aeiou])=Y;y=IH;c(?=[eiy])=S;c=K;g(?=[eiy])=JH;g=G;s(?=ur)=SH
(?<=[aeiou])s(?=e$)=Z;(?<=[aeioubdglmnrvw])s$=Z;x=K S
o$=OW;i$=AY;u$=UW;a$=AH;a=AE;e=EH;i=IH;o=AA;u=AH;b=B;d=D;f=F;h=HH;j=JH;k=K;l=L;m=M;n=N;p=P;q=K;r=R;s=S;t=T;v=V;w=W
z=Z""".replace("\n", ";").split(";")
    )
]


def word_phonemes(word: str) -> list[str]:
    """ARPABET names for a lower-case word, by a list of common words and letter rules; right for most, not all."""
    if word in _WORDS:
        return list(_WORDS[word])
    names: list[str] = []
    at = 0
    while at < len(word):
        if at and word[at] == word[at - 1] and word[at] not in "aeiou":
            at += 1
            continue
        for letters, sounds in _RULES:
            if found := letters.match(word, at):
                names += sounds
                at = found.end()
                break
        else:  # an apostrophe
            at += 1
    return names or ["AH"]


# --- From phonemes to the mouth

# How strongly the targets of a class hold against their neighbours, for jaw, pucker, press, smile and funnel: a closure
# must be reached, an open vowel may be undershot.
_STRENGTH = {
    "vowel": (1.0, 1.0, 1.0, 0.8, 1.0),
    "stop": (0.5, 0.5, 1.0, 0.3, 0.5),
    "hiss": (0.7, 0.6, 1.0, 0.4, 0.6),
    "hum": (0.5, 0.2, 1.0, 0.2, 0.2),
    "glide": (0.4, 0.8, 0.5, 0.2, 0.8),
    "pause": (0.8, 0.5, 0.5, 0.5, 0.5),
}
_LIPS_CLOSED = (4.0, 1.0, 10.0, 0.3, 6.0)
_FALL = np.array([22.0, 16.0, 80.0, 12.0, 18.0])  # 1/s: how quickly dominance falls outside the segment
_REACH = 0.5  # s


def mouth(phonemes: list[Phoneme] | tuple[Phoneme, ...], seconds: np.ndarray) -> np.ndarray:
    """Mouth values [T, 5] float32 in 0..1 (order of `MOUTH`) at the times `seconds` [T] of a phoneme track.

    Coarticulation by dominance functions in the manner of Cohen and Massaro 1993: each phoneme pulls at its target
    with a strength that falls exponentially with the distance in time, and the mouth is the weighted mean.
    """
    seconds = np.asarray(seconds, np.float64)
    weights = np.full((len(seconds), len(MOUTH)), 1e-6)
    sums = np.zeros((len(seconds), len(MOUTH)))
    for phoneme in phonemes:
        sound = SOUNDS[phoneme.name]
        start, end = phoneme.start / RATE, phoneme.end / RATE
        low, high = np.searchsorted(seconds, (start - _REACH, end + _REACH))
        if low == high:
            continue
        away = np.abs(seconds[low:high] - 0.5 * (start + end)) - 0.25 * (end - start)
        strength = _LIPS_CLOSED if sound.target[2] >= 0.5 else _STRENGTH[sound.kind]
        pull = np.array(strength) * np.exp(-_FALL * np.maximum(away, 0)[:, None])
        target = np.array(sound.target)
        if sound.kind == "vowel" and not phoneme.stressed:
            target = target * (0.75, 0.9, 1, 0.9, 0.8)  # reduced
        weights[low:high] += pull
        sums[low:high] += pull * target
    return (sums / weights).clip(0, 1).astype(np.float32)


# --- From phonemes to sound

_VOICING = {"vowel": 1.0, "glide": 0.7, "hum": 0.35, "hiss": 0.3, "stop": 0.08}
_STEP = 80  # samples between points of the control tracks: 5 ms


def voice(phonemes: list[Phoneme] | tuple[Phoneme, ...], num_samples: int, seed: int = 0) -> np.ndarray:
    """Sound [num_samples] float32 in -1..1 at 16 kHz of a phoneme track: pulses and noise through moving formants.

    A cascade formant synthesiser after Klatt 1980, with the smallest set of parts. The seed chooses pitch (85 to
    250 Hz), length of the vocal tract and the noise.
    """
    random = np.random.default_rng((71, seed))
    pitch = math.exp(random.uniform(math.log(85), math.log(250)))
    shorter = 1 + 0.17 * (math.log(pitch / 85) / math.log(250 / 85)) + random.uniform(-0.03, 0.03)
    points = num_samples // _STEP + 2
    time = np.arange(points) * _STEP
    formants = np.tile(np.array(SOUNDS["_"].formants), (points, 1))
    voicing, friction, breath, centre = np.zeros(points), np.zeros(points), np.zeros(points), np.full(points, 4000.0)
    accent = np.zeros(points)
    for phoneme in phonemes:
        sound = SOUNDS[phoneme.name]
        low, high = np.searchsorted(time, (phoneme.start, phoneme.end))
        if low >= high:
            continue
        formants[low:high] = sound.formants
        accent[low:high] = phoneme.stressed
        if sound.kind == "pause":
            continue
        centre[low:high] = sound.noise[0] or 4000.0
        voicing[low:high] = _VOICING[sound.kind] * sound.voiced
        if sound.kind == "hiss":
            (breath if phoneme.name == "HH" else friction)[low:high] = sound.noise[1]
        elif sound.kind == "stop":  # silence, then the burst
            burst = max(low, high - (14 if phoneme.name in ("CH", "JH") else 4))
            friction[burst:high] = sound.noise[1]
    # Tongue and lips take some 30 ms, the vocal folds and the air 10.
    formants = gaussian_filter1d(formants, 5, axis=0, mode="nearest") * shorter
    voicing, friction, breath = (gaussian_filter1d(track, 1.2) for track in (voicing, friction, breath))
    slow = gaussian_filter1d(random.standard_normal(points), 60)
    tune = 1 + 0.16 * gaussian_filter1d(accent, 12) + 0.5 * slow
    noise = random.standard_normal(num_samples).astype(np.float32)
    sound = _synthesise(num_samples, pitch * tune, formants, voicing, friction, breath, centre, noise, 3500.0 * shorter)
    return (0.5 * np.tanh(sound)).astype(np.float32)


@njit(cache=True)
def _synthesise(count, pitch, formants, voicing, friction, breath, centre, noise, fourth):
    sound = np.zeros(count, np.float64)
    state = np.zeros((5, 2))
    phase = 0.0
    widths = (70.0, 100.0, 130.0, 200.0)
    turn = 2 * math.pi / RATE
    for i in range(count):
        k = i // _STEP
        t = (i - k * _STEP) / _STEP
        phase += ((1 - t) * pitch[k] + t * pitch[k + 1]) / RATE
        if phase >= 1.0:
            phase -= 1.0
        # The slope of a glottal pulse that opens over 0.4 and closes over 0.16 of the period (Rosenberg 1971).
        flow = 0.0
        if phase < 0.4:
            flow = math.sin(math.pi * phase / 0.4) * 0.4
        elif phase < 0.56:
            flow = -math.sin(0.5 * math.pi * (phase - 0.4) / 0.16) * 1.6
        value = ((1 - t) * voicing[k] + t * voicing[k + 1]) * flow
        value += ((1 - t) * breath[k] + t * breath[k + 1]) * noise[i]
        for f in range(4):
            hertz = fourth
            if f < 3:
                hertz = (1 - t) * formants[k, f] + t * formants[k + 1, f]
            radius = math.exp(-0.5 * widths[f] * turn)
            b, c = 2 * radius * math.cos(hertz * turn), -radius * radius
            value = (1 - b - c) * value + b * state[f, 0] + c * state[f, 1]
            state[f, 1], state[f, 0] = state[f, 0], value
        hiss = ((1 - t) * friction[k] + t * friction[k + 1]) * noise[i]
        radius = math.exp(-0.5 * 1500.0 * turn)
        b, c = 2 * radius * math.cos(min(centre[k], 7000.0) * turn), -radius * radius
        hiss = 0.5 * hiss + b * state[4, 0] + c * state[4, 1]
        state[4, 1], state[4, 0] = state[4, 0], hiss
        sound[i] = 0.9 * value + 0.18 * hiss
    return sound
