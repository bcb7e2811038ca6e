"""Speech to Opus packets and back."""

from __future__ import annotations

import struct
import wave
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.error import FFmpegError
from av.packet import Packet

from stylereel.core.files import replacing
from stylereel.media.sound import read_sound

RATE = 48_000  # Opus always decodes to it
PACKET = 960  # samples: 20 ms
MAX_PACKET = 1275  # bytes, of the standard (RFC 6716)


def encode(path: str | Path, kilobits: float, start: float = 0.0) -> tuple[list[bytes], int]:
    """The sound of a file from `start` seconds on as Opus packets of 20 ms, one channel at a constant rate, and how
    many samples of their start are to be dropped after decoding.

    Raises MediaError if the file holds no readable sound, ValueError for a rate outside 6 to 128 kbit/s.
    """
    if not 6 <= kilobits <= 128:
        raise ValueError(f"Opus takes 6 to 128 kbit/s, not {kilobits:g}.")
    context = av.CodecContext.create("libopus", "w")
    assert isinstance(context, av.AudioCodecContext)
    context.sample_rate, context.layout, context.format = RATE, "mono", "s16"
    context.bit_rate = round(1000 * kilobits)
    context.options = {"application": "voip", "vbr": "off", "frame_duration": "20"}
    context.open()
    packets: list[bytes] = []
    rest, sent, dropped = np.zeros(0, np.float32), 0, round(start * RATE)

    def send(samples: np.ndarray | None) -> None:
        nonlocal sent
        frame = None
        if samples is not None:
            whole = (samples.clip(-1, 1) * 32767).round().astype(np.int16)
            frame = AudioFrame.from_ndarray(whole[None], "s16", "mono")
            frame.sample_rate, frame.pts = RATE, sent
            sent += len(samples)
        packets.extend(bytes(packet) for packet in context.encode(frame))

    for piece in read_sound(path, RATE):
        piece, dropped = piece[dropped:], max(0, dropped - len(piece))
        rest = np.concatenate([rest, piece])
        while len(rest) >= PACKET:
            send(rest[:PACKET])
            rest = rest[PACKET:]
    if len(rest):
        send(np.pad(rest, (0, PACKET - len(rest))))
    send(None)
    head = bytes(context.extradata or b"")
    skip = struct.unpack_from("<H", head, 10)[0] if len(head) >= 12 else 312
    return packets, skip


def decode(packets: Iterable[bytes | None], skip: int) -> np.ndarray:
    """Samples float32 [N] at 48 kHz of Opus packets in order; None, and what cannot be decoded, is silence."""
    head = b"OpusHead" + struct.pack("<BBHIhB", 1, 1, skip, RATE, 0, 0)
    context = av.CodecContext.create("opus", "r")
    assert isinstance(context, av.AudioCodecContext)
    context.extradata = head
    pieces: list[np.ndarray] = []
    for data in packets:
        piece = np.zeros(PACKET, np.float32)
        if data:
            try:
                frames = [frame.to_ndarray() for frame in context.decode(Packet(data))]
            except FFmpegError:
                frames = []
            if frames:
                found = np.concatenate([frame.reshape(frame.shape[0], -1).mean(0) for frame in frames])
                piece = np.zeros(PACKET, np.float32)
                piece[PACKET - min(len(found), PACKET) :] = found[-PACKET:]
        pieces.append(piece)
    samples = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    # FFmpeg drops the first `skip` samples of the first packet by itself; here they are zeros at its beginning.
    return samples[skip:]


def save_wav(path: str | Path, samples: np.ndarray) -> None:
    """Write samples [N] at 48 kHz as a WAV file of one channel (replaced only when complete)."""
    with replacing(path) as partial, wave.open(str(partial), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.asarray(samples).clip(-1, 1) * 32767).round().astype("<i2").tobytes())
