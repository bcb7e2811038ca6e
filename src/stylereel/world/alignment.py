"""Phonemes of speech whose words are known, by PocketSphinx, where it is installed: any voice, a person's too.

PocketSphinx (BSD) brings its English acoustic model and dictionary in its wheel. Times are whole 10 ms.
"""

from __future__ import annotations

import importlib
import re
from functools import cache
from typing import Any

import numpy as np

from stylereel.world.speech import RATE, SOUNDS, Phoneme

_FRAME = RATE // 100  # samples


@cache
def _decoder() -> Any:
    try:
        pocketsphinx = importlib.import_module("pocketsphinx")
    except ImportError:
        raise ValueError("Aligning speech needs PocketSphinx: pip install 'stylereel[speech]'.") from None
    return pocketsphinx.Decoder(lm=None, loglevel="FATAL")


def align(samples: np.ndarray, text: str) -> list[Phoneme]:
    """The phonemes of an English text in its speech [N] float32 at 16 kHz, without gaps.

    A vowel counts as stressed where it is at least as long as usual: that is what can be heard of stress. Raises
    ValueError without PocketSphinx, for words that its dictionary lacks, and where the text cannot be what is said.
    """
    decoder = _decoder()
    words = re.findall(r"[a-z']+", text.lower().replace("’", "'"))
    if unknown := [word for word in words if decoder.lookup_word(word) is None]:
        raise ValueError(f"The aligner's dictionary lacks {unknown[0]!r}; use another word.")
    data = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    try:
        decoder.set_align_text(" ".join(words))
        _hear(decoder, data)
        if decoder.hyp() is None:
            raise RuntimeError
        decoder.set_alignment()  # from words to phones, in a second pass
        _hear(decoder, data)
        found = [phone for word in decoder.get_alignment() for phone in word]
    except (RuntimeError, TypeError):
        raise ValueError("The text does not fit the speech; give the words that are said.") from None
    track: list[Phoneme] = []
    for phone in found:
        name = phone.name if phone.name in SOUNDS else "_"
        start, end = track[-1].end if track else 0, (phone.start + phone.duration) * _FRAME
        track.append(Phoneme(name, start, end, is_long(name, end - start)))
    return track


def is_long(name: str, num_samples: int) -> bool:
    """Whether a phoneme is a vowel that lasts at least as long as usual."""
    return SOUNDS[name].kind == "vowel" and num_samples >= SOUNDS[name].seconds * RATE


def _hear(decoder: Any, data: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(data, full_utt=True)
    decoder.end_utt()
