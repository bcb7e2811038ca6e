"""What was uploaded is looked at before it is used: by its content, never by running anything in it."""

from __future__ import annotations

from pathlib import Path

from stylereel.core.files import MediaError
from stylereel.core.weights import own_kind
from stylereel.media.clip import sound_index
from stylereel.media.pictures import FORMATS, read_picture
from stylereel.media.sound import read_sound
from stylereel.media.video import VideoReader

PICTURES = tuple(FORMATS)
SOUNDS = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac")
CLIPS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif")
OURS = (".safetensors", ".talk")
TEXTS = (".csv", ".txt")  # curves
LETTERS = 1_000_000  # of a text
RATE = 8000  # samples a second to count a sound by
ACCEPTED = (*PICTURES, *CLIPS, *SOUNDS, *OURS, *TEXTS)


def check(name: str, longest: float) -> None:
    """Raise MediaError, one sentence, unless a file is a picture, a clip, a sound or one of ours, and not too long.

    Args:
        name: the file.
        longest: seconds that a clip or sound may last.
    """
    path = Path(name)
    ending = path.suffix.lower()
    if ending not in ACCEPTED:
        raise MediaError(f"{path.name} is no kind of file that is taken here; give one of {', '.join(ACCEPTED)}.")
    if ending == ".safetensors":
        own_kind(path)
    elif ending in TEXTS:
        if path.stat().st_size > LETTERS or b"\0" in path.read_bytes():
            raise MediaError(f"{path.name} is no text of a reasonable length; give a file of curves.")
    elif ending in CLIPS:
        clip = VideoReader(path)
        _check_length(path, float(clip.num_frames / clip.rate), longest)
    elif ending in SOUNDS:
        if sound_index(path) is None:
            raise MediaError(f"{path.name} holds no sound that can be read; give another file.")
        samples = 0
        for part in read_sound(path, RATE):
            samples += len(part)
            _check_length(path, samples / RATE, longest)
    elif ending in PICTURES:
        read_picture(path)


def _check_length(path: Path, seconds: float, longest: float) -> None:
    if seconds > longest:
        raise MediaError(
            f"{path.name} is longer than {longest:.0f} s, the most that is taken here. Cut it first, or start the "
            "page with a larger --longest."
        )
