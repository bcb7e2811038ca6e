"""The commands of the procedural world: one portrait, one clip, a data set.

What they need is imported when they run: the world's room compiles on import, which help must not wait for.
"""

from __future__ import annotations

import difflib
from fractions import Fraction
from pathlib import Path
from typing import Literal


def world_sheet(
    *, out: str, seed: int = 0, columns: int = 6, rows: int = 4, size: int = 192, overwrite: bool = False
) -> Path:
    """Draw a sheet of invented people of the procedural world, each from its own seed.

    Args:
        out: the image to write (.png, .jpg or .webp).
        seed: random seed of the first person; the others count up from it.
        columns: portraits in a row.
        rows: rows of portraits.
        size: side of a portrait, in pixels.
        overwrite: also replace files that are there.
    """
    from stylereel.core.files import ensure_writable
    from stylereel.core.runs import claim
    from stylereel.media.pictures import FORMATS, check_size, save_picture, was_made_by
    from stylereel.media.sheet import contact_sheet
    from stylereel.world import draw, person

    path = ensure_writable(out, *FORMATS)
    claim([path], overwrite=overwrite, is_ours=lambda path: was_made_by(path, "world sheet"))
    if min(columns, rows, size) < 1 or seed < 0:
        raise ValueError("A sheet needs a seed of 0 or more and 1 or more columns, rows and pixels.")
    check_size(columns * size, rows * size, "The sheet")
    seeds = range(seed, seed + columns * rows)
    portraits = [draw(person(each), size).image for each in seeds]
    save_picture(path, contact_sheet(portraits, columns, [f"seed {each}" for each in seeds]), made_by="world sheet")
    return path


def world_portrait(
    *, out: str, seed: int = 0, size: int = 256, set: str = "", truth: bool = False, overwrite: bool = False
) -> list[Path]:
    """Draw one invented person.

    Args:
        out: the image to write (.png, .jpg or .webp).
        seed: random seed of the person.
        size: side of the portrait, in pixels.
        set: factors to fix, such as yaw=20,smile=1; docs/world.md lists them.
        truth: also write NAME.npz with landmarks, regions, depth, normals and factor values, and an image of them.
        overwrite: also replace files that are there.
    """

    import numpy as np

    from stylereel.core.files import ensure_writable, replacing
    from stylereel.core.runs import claim
    from stylereel.media.pictures import FORMATS, save_picture, was_made_by
    from stylereel.world import draw
    from stylereel.world.factors import NAMES, person

    path = ensure_writable(out, *FORMATS)
    exact, look = path.with_suffix(".npz"), path.with_name(f"{path.stem}-truth{path.suffix}")
    files = [path, exact, look] if truth else [path]
    claim(files, overwrite=overwrite, is_ours=lambda path: was_made_by(path, "world portrait"))
    _require(size=size, seed=seed)
    values = _with(person(seed), set)
    portrait = draw(values, size)
    save_picture(path, portrait.image, made_by="world portrait")
    if truth:
        from stylereel.world.truth import truth as dense

        maps = dense(values, size)
        with replacing(exact) as partial, partial.open("wb") as file:
            labels = {name: getattr(portrait, name) for name in ("landmarks", "visible", "regions")}
            np.savez_compressed(file, names=np.array(NAMES), values=values, **labels, **maps._asdict())
        near = np.isfinite(maps.depth)
        lowest, highest = maps.depth[near].min(), maps.depth[near].max()
        depth = np.where(near, 255 * (highest - maps.depth) / max(highest - lowest, 1e-6), 0)
        shades = [depth, 20.0 * portrait.regions]
        grey = [np.repeat(shade.astype(np.uint8)[..., None], 3, 2) for shade in shades]
        save_picture(
            look,
            np.concatenate([grey[0], (127.5 + 127.5 * maps.normals).astype(np.uint8), grey[1]], 1),
            made_by="world portrait",
        )
    return files


def world_clip(
    *,
    out: str,
    seed: int = 0,
    movement: int | None = None,
    manner: Literal["talking", "listening", "laughing", "conversation", "expressions", "still"] = "talking",
    text: str = "",
    voice: Literal["own", "espeak"] = "own",
    seconds: float | None = None,
    rate: int = 25,
    size: int = 256,
    motion: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Draw a clip of an invented person, whose synthetic voice matches the mouth exactly.

    Args:
        out: the clip to write (.mp4, .webm, .mkv, .gif, or no extension for a folder of images).
        seed: random seed of the person and the voice.
        movement: random seed of the movement; null takes that of the person.
        manner: what the person does.
        text: English text to say; without it the person babbles.
        voice: speech synthesiser: own, or espeak (eSpeak NG, where it is installed).
        seconds: length; null takes 4, or as long as the text takes.
        rate: frames a second.
        size: side of the frames, in pixels.
        motion: also write the exact motion to this file (.safetensors); `stylereel look` plots it.
        overwrite: also replace files that are there; a folder of pictures must be new.
    """
    from tempfile import TemporaryDirectory

    import numpy as np
    from scipy.io import wavfile

    from stylereel.core.files import ensure_writable
    from stylereel.core.runs import claim
    from stylereel.media.video import VideoWriter
    from stylereel.world import MOTION, draw, espeak, natural_motion, speech
    from stylereel.world.dataset import clip_values
    from stylereel.world.motion import list_phonemes

    movement = seed if movement is None else movement
    _require(size=size, seed=seed, movement=movement, rate=rate)
    if seconds is not None and not 0 < seconds <= 3600:
        raise ValueError("A clip lasts more than 0 seconds and at most 3600.")
    if text and manner != "talking":
        raise ValueError(f"Text is said by a person who talks; leave out --manner {manner} or --text.")
    if voice == "espeak" and not text:
        raise ValueError("eSpeak NG needs words to say; give --text.")
    if motion:
        ensure_writable(motion, ".safetensors")
    files = [Path(path) for path in (out, motion) if path]
    claim([path for path in files if path.suffix], overwrite=overwrite)
    if text:
        frame_rate = Fraction(rate)
        said = speech.speak(text, seed, frame_rate) if voice == "own" else espeak.speak(text, rate=frame_rate)
        seconds = seconds or len(said.mouth) / rate
        phonemes, sound = list(said.phonemes), said.audio
    else:
        seconds = seconds or 4
        phonemes = list_phonemes(movement, seconds, manner)
        sound = speech.voice(phonemes, round(seconds * speech.RATE), seed)
    frames = max(1, round(seconds * rate))
    track = natural_motion(movement, frames, Fraction(rate), manner, phonemes if text else None)
    with TemporaryDirectory() as folder:
        wav = Path(folder) / "voice.wav"
        wavfile.write(wav, speech.RATE, np.round(sound * 32767).astype(np.int16))
        audible = any(phoneme.name != "_" for phoneme in phonemes)
        with VideoWriter(out, Fraction(rate), audio_from=wav if audible else None) as writer:
            for values in clip_values(seed, track):
                writer.write(draw(values, size).image)
            writer.finish()
    if motion:
        from stylereel.core.latents import FACE, Motion

        placement = np.tile(np.array([size / 2, size / 2, size, 0], np.float32), (frames, 1))
        Motion(track, FACE, MOTION, Fraction(rate), placement).save(motion)
    return files


def world_dataset(
    *,
    out: str,
    count: int,
    size: int = 256,
    kind: Literal["portraits", "clips"] = "portraits",
    seed: int = 0,
    manner: Literal["talking", "listening", "laughing", "conversation", "expressions", "still"] = "conversation",
    seconds: float = 2.0,
    rate: int = 25,
    truth: bool = False,
) -> list[Path]:
    """Write invented people with exact labels as webdataset shards; the same settings give the same bytes.

    Args:
        out: a new folder for the shards.
        count: number of portraits or clips.
        size: side of the images, in pixels.
        kind: single portraits, or clips with sound.
        seed: random seed of the first person; the others count up from it.
        manner: what the people of clips do.
        seconds: length of a clip.
        rate: frames a second of a clip.
        truth: add depth and normals, and for clips the flow to the next frame.
    """
    from stylereel.world.dataset import write_dataset

    _require(size=size, seed=seed, rate=rate)
    if count < 1 or seconds <= 0:
        raise ValueError("A data set needs a count of 1 or more, and clips of more than 0 seconds.")
    return list(write_dataset(out, count, size, kind, seed, truth, manner, seconds, Fraction(rate)))


def _require(**numbers: int) -> None:
    for name, number in numbers.items():
        low, high = {"size": (16, 8192), "rate": (1, 240)}.get(name, (0, None))
        if number < low or (high is not None and number > high):
            takes = f"{low} or more" if high is None else f"{low} to {high}"
            unit = {"size": " pixels", "rate": " frames a second"}.get(name, "")
            raise ValueError(f"--{name} takes {takes}{unit}, not {number}.")


def _with(values, settings: str):
    """Values [K] with `name=number,name=number` put in. Raises ValueError for an unknown name or a number outside."""
    from stylereel.world.factors import HIGH, INDEX, LOW, NAMES

    for setting in filter(None, (part.strip() for part in settings.split(","))):
        name, _, number = setting.partition("=")
        if name not in INDEX:
            near = difflib.get_close_matches(name, NAMES, n=1)
            raise ValueError(f"There is no factor {name}{f'; did you mean {near[0]}?' if near else '.'}")
        low, high = float(LOW[INDEX[name]]), float(HIGH[INDEX[name]])
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise ValueError(f"{name} takes a number from {low:g} to {high:g}, not {number or 'nothing'}.")
        values[INDEX[name]] = value
    return values
