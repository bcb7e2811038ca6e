"""Zip archives as torch.save writes them: where each member is. Nothing is extracted, nothing decompressed."""

from __future__ import annotations

import struct

MAX_MEMBERS = 100_000


class Refusal(Exception):
    """Why a file is not read: the rest of a sentence that begins with the file's name."""


def members(data: memoryview) -> dict[str, tuple[int, int]]:
    """Where each member of a zip archive is: name -> (start, end). Members must be stored as they are.

    Read here, not by zipfile, because that one sets no limit to the directory and copies what it reads.
    """
    tail_start = max(0, len(data) - 65557)
    found = bytes(data[tail_start:]).rfind(b"PK\x05\x06")
    if found < 0 or tail_start + found + 22 > len(data):
        raise Refusal("is a zip archive that was cut off; get a complete copy")
    end = tail_start + found
    count, size, offset = struct.unpack_from("<HLL", data, end + 10)
    if end >= 20 and data[end - 20 : end - 16] == b"PK\x06\x07":
        (record,) = struct.unpack_from("<Q", data, end - 12)
        if data[record : record + 4] != b"PK\x06\x06":
            raise Refusal("has a damaged zip directory; get a complete copy")
        count, size, offset = struct.unpack_from("<QQQ", data, record + 32)
    if count > MAX_MEMBERS or offset + size > len(data):
        raise Refusal("has an impossible zip directory")
    places: dict[str, tuple[int, int]] = {}
    place = offset
    for _ in range(count):
        signature, flags, method = struct.unpack_from("<4s4xHH", data, place)
        packed, length, name_length, extra_length, comment_length = struct.unpack_from("<LLHHH", data, place + 20)
        (header,) = struct.unpack_from("<L", data, place + 42)
        name_end = place + 46 + name_length
        name = bytes(data[place + 46 : name_end]).decode("utf-8")
        if signature != b"PK\x01\x02":
            raise Refusal("has a damaged zip directory; get a complete copy")
        length, packed, header = _long(data[name_end : name_end + extra_length], length, packed, header)
        if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
            raise Refusal(f"has a member {short(name)} that leads out of the archive")
        if name in places:
            raise Refusal(f"has the member {short(name)} twice")
        if method != 0 or packed != length or flags & 1:
            raise Refusal("has compressed or encrypted members, which torch.save never writes")
        local, local_name, local_extra = struct.unpack_from("<4s22xHH", data, header)
        start = header + 30 + local_name + local_extra
        if local != b"PK\x03\x04" or data[header + 30 : header + 30 + local_name] != name.encode():
            raise Refusal(f"has a member {short(name)} that is not where its directory says")
        places[name] = (start, start + length)
        place = name_end + extra_length + comment_length
    last = 0
    for start, stop in sorted(places.values()):
        if start < last or stop > len(data):
            raise Refusal("has members that overlap or go beyond its end")
        last = stop
    return places


def _long(extra: memoryview, *values: int) -> list[int]:
    """The values, those of 2^32 - 1 replaced by the 64-bit ones in the member's extra field."""
    result = list(values)
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, place)
        if kind == 1:
            places = [i for i, value in enumerate(values) if value == 0xFFFFFFFF]
            for i, value in zip(places, struct.unpack_from(f"<{len(places)}Q", extra, place + 4), strict=True):
                result[i] = value
        place += 4 + length
    return result


def short(text: object) -> str:
    """A name from the file, fit for a sentence."""
    words = str(text)
    return ascii(words if len(words) <= 80 else words[:80] + "...")
