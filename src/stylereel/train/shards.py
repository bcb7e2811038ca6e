"""Shards: pictures in tar files, on this machine or on a server. Members are read in memory, never unpacked.

Every regular member with the ending of a picture is one sample; others, such as labels, are ignored.
"""

from __future__ import annotations

import json
import math
import re
import tarfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPException, HTTPResponse
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np

from stylereel.core.files import MediaError, require_file

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
BUFFER = 1000  # pictures, as files, among which the next of a streamed shard is drawn
RANGE = re.compile(r"\{(-?[0-9]+)\.\.(-?[0-9]+)(?:\.\.-?([1-9][0-9]*))?\}")
MOST_SHARDS = 200_000  # that a pattern may mean
TRIES, WAIT, TIMEOUT = 6, 1.0, 60.0  # of a connection; the wait in seconds doubles after each try

Note = Callable[[str, str], None]  # takes the name of an unusable file and the reason
Sample = tuple[str, bytes]


class Member(NamedTuple):
    """A sample's place: `size` bytes from `offset` on in the file `path`."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes of the sample; fewer if the file has been cut since."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def is_picture(name: str) -> bool:
    """Whether a file is a picture, by the ending of its name; hidden files are not."""
    return Path(name).suffix.lower() in PICTURES and not Path(name).name.startswith(".")


def expand(pattern: str) -> list[str]:
    """The names that a pattern such as `shards-{000000..000099}.tar` means.

    Raises:
        ValueError: the extra `train` is not installed, a file on this machine is missing, or there are more than
            MOST_SHARDS.
    """
    try:
        from braceexpand import braceexpand
    except ImportError as error:
        raise ValueError("Patterns need the extra train: pip install 'stylereel[train]'.") from error
    # Counted before, with each range as one name that holds its length: expanding makes lists of the ranges.
    ranges = RANGE.sub(lambda found: f"\0{abs(int(found[2]) - int(found[1])) // int(found[3] or 1) + 1}\0", pattern)
    counted = islice(braceexpand(ranges), MOST_SHARDS + 1)
    if sum(math.prod(map(int, re.findall("\0([0-9]+)\0", name))) for name in counted) > MOST_SHARDS:
        raise ValueError(f"{pattern} means more than {MOST_SHARDS} shards; give a pattern of those that exist.")
    names = list(braceexpand(pattern))
    if "://" not in pattern:
        for name in names:
            require_file(name)
    return names


def local_members(
    paths: list[Path], note: Note, wanted: Callable[[str], bool] = is_picture
) -> list[tuple[str, Member]]:
    """The samples of uncompressed tar files, found by reading their headers once; what follows damage is left out.

    wanted: which members are samples, by their names.
    """
    samples: list[tuple[str, Member]] = []
    for path in paths:
        try:
            with tarfile.open(path, "r:") as shard:
                for member in shard:
                    if member.isreg() and wanted(member.name):
                        name = f"{path.name}/{member.name}"
                        samples.append((name, Member(path, member.offset_data, member.size)))
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            note(str(path), f"{path} is no complete, uncompressed tar file ({error}).")
    return samples


class RemoteShards:
    """The endless order of the samples of shards on a server, which is read as a stream.

    Each epoch takes the shards in a new order; inside a shard the next sample is drawn from a buffer of BUFFER. So a
    batch comes from one shard or two: write shards of pictures that were shuffled before.

    Starting in the middle leaves out, unread, the shards before the place whose number of samples is known, from
    having read them or from `sizes.json` next to the shards ({"name.tar": number}); others are read but not decoded.
    """

    def __init__(self, urls: list[str], seed: int, note: Note) -> None:
        try:
            from webdataset.tariterators import tar_file_iterator
        except ImportError as error:
            raise ValueError("Shards on a server need the extra train: pip install 'stylereel[train]'.") from error
        self._members = tar_file_iterator
        self._urls, self._seed, self._note = urls, seed, note
        self._counts = _read_sizes(urls)
        self._held: deque[Sample] = deque()
        self._first = 0  # the position of the first sample held
        self._stream: Iterator[Sample] | None = None

    def item(self, position: int, oldest: int) -> Sample:
        """The sample at a position; positions before `oldest` will not be asked for again.

        Raises:
            MediaError: the server does not give a shard, a shard differs from `sizes.json`, or there is no sample.
        """
        if self._stream is None or not 0 <= oldest - self._first <= len(self._held):
            self._held.clear()
            self._first, self._stream = oldest, self._from(oldest)
        while self._first < oldest:
            self._held.popleft()
            self._first += 1
        while len(self._held) <= position - self._first:
            try:
                self._held.append(next(self._stream))
            except BaseException:
                self._stream = None  # a generator does not survive its error
                raise
        return self._held[position - self._first]

    def _from(self, position: int) -> Iterator[Sample]:
        epoch = 0
        while True:
            empty = True
            for number in np.random.default_rng((self._seed, 0, epoch)).permutation(len(self._urls)):
                url = self._urls[number]
                known = self._counts.get(url)
                if known is not None and position >= known:
                    position -= known
                    empty &= known == 0
                    continue
                for sample in _shuffle(self._read(url), np.random.default_rng((self._seed, 3, epoch, number))):
                    empty = False
                    if position:
                        position -= 1
                    else:
                        yield sample
            if empty:
                raise MediaError(
                    f"{_without_query(self._urls[0])} holds no pictures; give shards with png, jpg or webp files."
                )
            epoch += 1

    def _read(self, url: str) -> Iterator[Sample]:
        count, shard = 0, Path(urlsplit(url).path).name
        with closing(_Download(url)) as download:
            try:
                for member in self._members(download, select_files=is_picture):  # type: ignore[arg-type]
                    count += 1
                    yield f"{shard}/{member['fname']}", member["data"]
            except (tarfile.TarError, OSError, EOFError, ValueError) as error:
                if download.failure:
                    raise MediaError(f"{_without_query(url)} cannot be read: {download.failure}.") from error
                self._note(_without_query(url), f"{_without_query(url)} is no complete tar file.")
        if self._counts.setdefault(url, count) != count:
            listed = f"{count} pictures, but was counted or listed in sizes.json with {self._counts[url]}"
            raise MediaError(f"{_without_query(url)} gave {listed}; fix the shard or the list.")


class _Download:
    """The bytes of a URL as a stream; a connection that breaks off is taken up again where it was."""

    def __init__(self, url: str) -> None:
        self._url, self._done, self._length = url, 0, -1
        self._response: HTTPResponse | None = None
        self.failure = ""  # why the bytes ended too early

    def read(self, count: int) -> bytes:
        for attempt in range(TRIES):
            try:
                response = self._response or self._connect()
                data = response.read(count)
                if not data and self._done < self._length:
                    raise OSError(f"the connection closed after {self._done} of {self._length} bytes")
                self._done += len(data)
                return data
            except (OSError, HTTPException) as error:
                self.close()
                self.failure = str(error) or type(error).__name__
                if isinstance(error, HTTPError) and error.code < 500:
                    break
                time.sleep(WAIT * 2**attempt if attempt + 1 < TRIES else 0)
        raise OSError(self.failure)

    def _connect(self) -> HTTPResponse:
        headers = {"Range": f"bytes={self._done}-"} if self._done else {}
        self._response = response = urlopen(Request(self._url, headers=headers), timeout=TIMEOUT)
        resumed = response.status == 206
        self._length = int(response.headers.get("Content-Length", -1)) + (self._done if resumed else 0)
        skip = 0 if resumed else self._done
        while skip and (data := response.read(min(skip, 1 << 20))):
            skip -= len(data)
        return response

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None


def _shuffle(samples: Iterator[Sample], random: np.random.Generator) -> Iterator[Sample]:
    held: list[Sample] = []
    for sample in samples:
        if len(held) < BUFFER:
            held.append(sample)
        else:
            place = random.integers(BUFFER)
            yield held[place]
            held[place] = sample
    for place in random.permutation(len(held)):
        yield held[place]


def _read_sizes(urls: list[str]) -> dict[str, int]:
    """The numbers of samples by URL, as far as the `sizes.json` next to the first shard lists them."""
    address = urls[0].split("?")[0].rsplit("/", 1)[0] + "/sizes.json"
    try:
        with urlopen(address, timeout=TIMEOUT) as response:
            listed = json.loads(response.read())
        return {url: int(listed[name]) for url in urls if (name := Path(urlsplit(url).path).name) in listed}
    except HTTPError:
        return {}
    except OSError as error:
        raise MediaError(f"{address} cannot be asked for ({error}); check the address and the connection.") from error
    except (ValueError, TypeError) as error:
        raise MediaError(f"{address} is no list of names and numbers; fix or remove it.") from error


def _without_query(url: str) -> str:
    """A URL without its query, which may hold a key."""
    return url.split("?")[0]
