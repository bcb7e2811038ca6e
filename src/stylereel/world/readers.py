"""Voices that read a text aloud: hibari's and eSpeak NG's where they are installed, and the world's own."""

from __future__ import annotations

import importlib
from typing import Literal, NamedTuple, get_args

import numpy as np

from stylereel.world import espeak, speech

Voice = Literal["auto", "hibari", "espeak", "own"]


class Reading(NamedTuple):
    """A text read aloud: by which voice, samples [N] float32 in -1..1, samples a second."""

    voice: str
    samples: np.ndarray
    rate: int


def read_aloud(text: str, voice: Voice = "auto", seed: int = 0) -> Reading:
    """An English text in a voice; auto takes the first of hibari, eSpeak NG and our own that is installed.

    seed: which of our own voices; of the others the noise in the voice at most. Raises ValueError for an unknown voice,
    one that is not installed, and a text in which nothing can be said.
    """
    if voice not in get_args(Voice):
        raise ValueError(f"There is no voice {voice}; take one of {', '.join(get_args(Voice))}.")
    speech.check_text(text)
    if voice in ("auto", "hibari"):
        try:
            return Reading("hibari", *_hibari(text, seed))
        except ImportError:
            if voice == "hibari":
                raise ValueError("The voice hibari needs pip install hibari-tts; or give --voice own.") from None
    if voice in ("auto", "espeak"):
        try:
            return Reading("espeak", espeak.speak(text).audio, speech.RATE)
        except ValueError:
            if voice == "espeak":
                raise
    return Reading("own", speech.speak(text, seed).audio, speech.RATE)


def _hibari(text: str, seed: int) -> tuple[np.ndarray, int]:
    hibari = importlib.import_module("hibari")
    return hibari.Hibari()(text, seed=seed), hibari.SAMPLE_RATE
