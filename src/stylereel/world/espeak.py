"""Speech by eSpeak NG, where its library is installed: a better voice than our own, with its phonemes' exact times.

The library is looked up on the machine and never bundled (it is free software under the GNU GPL 3).
"""

from __future__ import annotations

import ctypes
import math
from fractions import Fraction
from functools import cache

import numpy as np
from scipy.signal import resample_poly

from stylereel.world.speech import RATE, SOUNDS, Phoneme, Speech, mouth

_SYNCHRONOUS, _PHONEME_EVENTS, _DO_NOT_EXIT, _UTF8 = 2, 0x0001, 0x8000, 1
_PHONEME = 7  # type of event
_WORDS_A_MINUTE, _PITCH = 1, 3  # parameters

# Names of eSpeak's English phonemes; marks at the end (# 2 : - and so on) are left out if the name is not here.
_NAMES = {
    name: sounds.split()
    for name, sounds in (
        pair.split("=")
        for pair in """a=AE;aa=AE;A=AA;A@=AA R;0=AA;V=AH;@=AH;a#=AH;@5=UH;E=EH;e@=EH R;I=IH;i=IY;i@=IY ER;u=UW;U=UH
U@=UH R;O=AO;O@=AO R;o@=AO R;oU=OW;o=OW;OI=OY;aI=AY;aI@=AY ER;aI3=AY ER;aU=AW;aU@=AW ER;eI=EY;e=EH;3=ER;@L=AH L;p=P;b=B
t=T;d=D;k=K;g=G;f=F;v=V;T=TH;D=DH;s=S;z=Z;S=SH;Z=ZH;h=HH;m=M;n=N;N=NG;l=L;r=R;w=W;j=Y
tS=CH;dZ=JH;?=T;_=_""".replace("\n", ";").split(";")
    )
}


class _Name(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Name),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@cache
def _library() -> tuple[ctypes.CDLL, int]:
    """The library, ready to speak, and its samples a second."""
    for name in ("libespeak-ng.so.1", "libespeak-ng.1.dylib", "libespeak-ng.dylib", "libespeak-ng.dll"):
        try:
            library = ctypes.CDLL(name)
            break
        except OSError:
            continue
    else:
        raise ValueError("eSpeak NG is not installed; install the package espeak-ng, or use our own voice.")
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS | _DO_NOT_EXIT)
    if rate <= 0:
        raise ValueError("eSpeak NG does not find its data; install the package espeak-ng-data.")
    return library, rate


def speak(
    text: str, voice: str = "en-us", rate: Fraction = Fraction(25), words_a_minute: int = 175, pitch: int = 50
) -> Speech:
    """Say a text with eSpeak NG; like `speech.speak`, but for the sound and the choice of phonemes.

    Args:
        voice: language and variant, such as en-gb+f3.
        words_a_minute: 80 to 450.
        pitch: 0 to 99.

    Raises ValueError when the library or the voice is missing, or nothing is said.
    """
    library, library_rate = _library()
    if library.espeak_SetVoiceByName(voice.encode()):
        raise ValueError(f"eSpeak NG has no voice {voice}; espeak-ng --voices lists them.")
    library.espeak_SetParameter(_WORDS_A_MINUTE, words_a_minute, 0)
    library.espeak_SetParameter(_PITCH, pitch, 0)
    chunks: list[np.ndarray] = []
    starts: list[tuple[int, str]] = []

    def receive(samples, count: int, events) -> int:
        if count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type:
            event = events[index]
            if event.type == _PHONEME:
                starts.append((event.sample, bytes(event.id.string).decode("utf-8", "replace")))
            index += 1
        return 0

    callback = _Callback(receive)
    library.espeak_SetSynthCallback(callback)
    data = text.encode()
    library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 1, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    if not chunks or not any(name.strip("_:|; ") for _, name in starts):
        raise ValueError("The text holds nothing that eSpeak NG can say; give some words.")
    sound = np.concatenate(chunks).astype(np.float64) / 32768
    step = math.gcd(RATE, library_rate)
    audio = resample_poly(sound, RATE // step, library_rate // step).astype(np.float32)
    phonemes = _track(starts, len(audio), library_rate)
    num_frames = math.ceil(Fraction(len(audio), RATE) * rate)
    return Speech(tuple(phonemes), audio, mouth(phonemes, np.arange(num_frames) / float(rate)), Fraction(rate))


def _track(starts: list[tuple[int, str]], num_samples: int, library_rate: int) -> list[Phoneme]:
    """Events (sample, name) as phonemes without gaps; a name of two sounds is cut by their usual lengths."""
    times = [min(round(Fraction(sample * RATE, library_rate)), num_samples) for sample, _ in starts] + [num_samples]
    track = [Phoneme("_", 0, times[0])] if times[0] else []
    for (_, name), start, end in zip(starts, times, times[1:], strict=False):
        if end <= start:
            continue
        stressed = name.startswith("'")
        plain = name.strip("',%=|")
        while plain and plain not in _NAMES:
            plain = plain[:-1]
        sounds = _NAMES.get(plain, ["_"])
        lengths = np.cumsum([0.0] + [SOUNDS[sound].seconds for sound in sounds])
        cuts = [start + round((end - start) * length / lengths[-1]) for length in lengths]
        vowel = stressed or plain in ("aI", "eI", "oU", "aU", "OI", "A", "O", "i", "u")
        for sound, first, last in zip(sounds, cuts, cuts[1:], strict=False):
            if sound == "_" and track and track[-1].name == "_":  # some versions tell a pause and its end apart
                first = track.pop().start
            track.append(Phoneme(sound, first, last, vowel and SOUNDS[sound].kind == "vowel"))
    return track
