"""Folders, lists, patterns and shards to single videos, each with a name of its own."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from stylereel.core.files import MediaError, replacing, require_file
from stylereel.train.shards import Member, expand, local_members

VIDEOS = {".mp4", ".mov", ".webm", ".mkv", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".gif"}
LISTS = {".txt", ".tsv"}
BLOCK = 1 << 20  # bytes that are copied at once


class Video(NamedTuple):
    """One video: `name`, unique and without the folder that was given; the file, or the shard and the place in it;
    the licence, if one was given."""

    name: str
    path: str
    offset: int = -1  # of a member of a shard
    size: int = 0
    licence: str = ""


def is_video(name: str) -> bool:
    """Whether a file is a video, by the ending of its name; hidden files are not."""
    return Path(name).suffix.lower() in VIDEOS and not Path(name).name.startswith(".")


def find_videos(sources: Iterable[str], licence: str = "") -> list[Video]:
    """All videos of the sources, sorted by name.

    Args:
        sources: videos; folders, searched at any depth; patterns such as `clips/*.mp4` or `shards-{000..099}.tar`;
            shards with videos (.tar); lists (.txt, .tsv): a source a line, relative to the list, after a tab its
            licence, lines with # in front are left out.
        licence: of all that has none in a list.

    Raises:
        ValueError: nothing is there, or two videos have one name.
    """
    found: dict[str, Video] = {}
    for source in sources:
        for video in _of(source, licence, lists=True):
            other = found.setdefault(video.name, video)
            if (other.path, other.offset) != (video.path, video.offset):
                raise ValueError(f"{other.path} and {video.path} would both be called {video.name}; rename one.")
    if not found:
        raise ValueError(f"No videos were found in {', '.join(sources) or 'nothing'}; give folders, files or lists.")
    return [found[name] for name in sorted(found)]


def _of(source: str, licence: str, lists: bool) -> Iterator[Video]:
    path = Path(source)
    if os.path.isdir(source):
        yield from _folder(path, licence)
    elif path.suffix.lower() in LISTS and lists:
        for line in require_file(path).read_text(encoding="utf-8").splitlines():
            name, _, own = line.partition("\t")
            if name.strip() and not name.startswith("#"):
                try:
                    yield from _of(str(path.parent / name.strip()), own.strip() or licence, lists=False)
                except ValueError as error:
                    raise MediaError(f"{path} lists what cannot be taken: {error}") from error
    elif not os.path.exists(source) and any(sign in source for sign in "*?["):
        matches = sorted(glob.glob(source, recursive=True))
        if not matches:
            raise ValueError(f"Nothing matches {source}; check the pattern.")
        for match in matches:
            yield from _of(match, licence, lists)
    elif "{" in source and not os.path.exists(source):
        for name in expand(source):
            yield from _of(name, licence, lists)
    elif path.suffix.lower() == ".tar":
        yield from _shard(require_file(path), path.name, licence)
    else:
        yield Video(require_file(path).name, str(path), licence=licence)


def _folder(root: Path, licence: str) -> Iterator[Video]:
    def fail(error: OSError) -> None:
        raise MediaError(f"{error.filename} cannot be listed ({error.strerror}); give a folder that can be read.")

    for folder, folders, names in os.walk(root, onerror=fail):
        folders[:] = [name for name in folders if name[0] != "."]
        for name in sorted(names):
            path = Path(folder, name)
            inside = path.relative_to(root).as_posix()
            if is_video(name):
                yield Video(inside, str(path), licence=licence)
            elif path.suffix.lower() == ".tar" and name[0] != ".":
                yield from _shard(path, inside, licence)


def _shard(path: Path, name: str, licence: str) -> Iterator[Video]:
    def stop(_: str, reason: str) -> None:
        raise MediaError(reason)

    for inside, member in local_members([path], stop, is_video):
        yield Video(f"{name}/{inside.partition('/')[2]}", str(path), member.offset, member.size, licence)


@contextmanager
def as_file(video: Video, folder: Path) -> Iterator[Path]:
    """The video as a file: itself, or a copy of the shard's member in a folder, which is removed at the end."""
    if video.offset < 0:
        yield Path(video.path)
        return
    copy = folder / f"{Path(video.name).stem}-{video.offset}{Path(video.name).suffix}"
    with replacing(copy) as partial, partial.open("wb") as target:
        for start in range(0, video.size, BLOCK):
            part = Member(Path(video.path), video.offset + start, min(BLOCK, video.size - start)).read()
            if not part:
                raise MediaError(f"{video.path} has become shorter; give the complete shard.")
            target.write(part)
    try:
        yield copy
    finally:
        copy.unlink(missing_ok=True)
