"""The command `stylereel say`: from a text to a voice to a portrait that says it, all on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

import numpy as np
from scipy.io import wavfile

from stylereel.commands.drive import drive, lines
from stylereel.commands.likeness import Likeness
from stylereel.commands.rendering import RenderKeywords, RenderOptions
from stylereel.core.files import ensure_writable, replacing
from stylereel.core.record import Stages, write_record
from stylereel.core.runs import claim
from stylereel.core.seeds import check_seed
from stylereel.media.writer import ENDINGS
from stylereel.world.readers import Reading, Voice, read_aloud

__all__ = ["lines", "say"]

LONGEST = 20_000  # characters, about half an hour


def say(
    text: str,
    /,
    *,
    source: str,
    out: str,
    driving: str | None = None,
    system: str = "stylemask",
    voice: Voice = "auto",
    seed: int = 0,
    likeness: Likeness = "auto",
    stages: Stages | None = None,
    **rendering: Unpack[RenderKeywords],
) -> dict[str, Any]:
    """Let a portrait say an English text: a voice reads it, and lips and head follow the voice.

    The voice is also written, as NAME-voice.wav. `drive` with `--audio` has more options, and takes any sound.

    Args:
        text: what to say, in English.
        source: the person: the seed of an invented person, or a file with an image, codes or an identity.
        out: the file to write, .mp4, .webm, .mkv (lossless) or .gif; its record is written next to it as .json.
        driving: a clip or a saved motion that moves the head instead; its lips are not followed.
        system: the system that shows it.
        voice: who reads: hibari (from `pip install hibari-tts`), espeak (eSpeak NG, where it is installed), own (the
            world's own voice, always there), or auto, the first of these that is there.
        seed: random seed of the head's movement, and which of the own voices reads.
        likeness: how a photograph is shown: photo (the generator is tuned to it, which takes a minute or two, once),
            drawn (the person as the generator draws what was read, at once), or auto: photo, where the system can.
        stages: clock to use, for watching the progress.
        rendering: what all commands that render take, see `RenderOptions`.

    Returns:
        The record of `drive`, and the voice among the files.

    Raises:
        ValueError: nothing to say, a voice that is not installed, or what `drive` raises; no file is left then.
    """
    stages, shared = stages or Stages(), RenderOptions(**rendering)
    if shared.audio is not None:
        raise ValueError("say speaks the text itself; leave out --audio, or use drive.")
    if len(text) > LONGEST:
        raise ValueError(f"A text has {LONGEST} characters at most, not {len(text)}; say it in parts.")
    check_seed(seed)
    target = ensure_writable(out, *filter(None, ENDINGS))
    spoken, log = (target.with_name(f"{target.stem}-voice{ending}") for ending in (".wav", ".json"))
    claim([target, target.with_suffix(".json")], overwrite=shared.overwrite)
    claim([spoken, log], overwrite=shared.overwrite)
    with stages("speak"):
        reading = read_aloud(text, voice, seed)
    try:
        _write(spoken, reading)
        write_record(spoken, {"text": text, "voice": reading.voice, "seeds": {"voice": seed}, "files": [spoken, log]})
        record = drive(
            system,
            source=source,
            driving=driving,
            out=str(target),
            movement=seed,
            likeness=likeness,
            stages=stages,
            **{**rendering, "audio": str(spoken)},
        )
    except Exception:
        for file in (spoken, log):
            file.unlink(missing_ok=True)
        raise
    return record | {"voice": reading.voice, "files": [*record["files"], spoken, log]}


def _write(path: Path, reading: Reading) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        wavfile.write(file, reading.rate, np.round(reading.samples.clip(-1, 1) * 32767).astype(np.int16))
