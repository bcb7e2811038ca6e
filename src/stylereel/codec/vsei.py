"""Motion as generative face video SEI messages of the VSEI standard, and back without loss.

The syntax is that of JVET-AJ0207 as its reference software writes it: one message a frame, motion as one matrix of a
free type, width 1 and height K. Message 0 is of the base picture: it names generator and identity by URI and holds the
first frame's integers; the others hold differences from the frame before. An element is an integer and a fraction of
`precision` bits: the codec's integer q is the element q / 2^precision, so that nothing is rounded. Frames without a
face carry the low-confidence flag.

Rest, steps and names of the tracks have no place in the syntax; both sides know them by kind and lever, which the URI
names, as the URI names the generator.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from stylereel.codec.entropy import DamagedError

MATRIX_TYPE = 7  # the first of those whose meaning is free
PRECISION = 8
MAX_SIDE = 1024
MAX_MESSAGES = 1 << 22
URI_TAG = "stylereel"

Message = dict[str, Any]


def messages(
    values: np.ndarray,
    missing: Sequence[bool] | np.ndarray = (),
    uri: str = "",
    precision: int = PRECISION,
    identifier: int = 0,
) -> list[Message]:
    """A message for each row of coded integers [T, K]; its fields are the syntax elements that are present.

    missing: flags [T], or none; uri: what names generator, identity and coordinates. Raises ValueError for more than
    1024 tracks.
    """
    rows, tracks = values.shape
    if not 1 <= tracks <= MAX_SIDE:
        raise ValueError(f"A matrix of the standard holds 1 to {MAX_SIDE} tracks, not {tracks}.")
    flags = np.zeros(rows, bool) if len(missing) == 0 else np.asarray(missing, bool)
    found: list[Message] = []
    before = np.zeros(tracks, np.int64)
    for row, now in enumerate(np.asarray(values, np.int64)):
        message: Message = {"gfv_id": identifier, "gfv_cnt": row}
        if row == 0:
            message |= {"gfv_base_picture_flag": 1, "gfv_nn_present_flag": int(bool(uri))}
            if uri:
                message |= {"gfv_mode_idc": 1, "gfv_uri_tag": URI_TAG, "gfv_uri": uri}
            message["gfv_chroma_key_info_present_flag"] = 0
        else:
            message["gfv_drive_picture_fusion_flag"] = 0
        message["gfv_low_confidence_face_parameter_flag"] = int(flags[row])
        message |= {"gfv_coordinate_present_flag": 0, "gfv_matrix_present_flag": 1}
        if row == 0:
            message |= {
                "gfv_matrix_element_precision_factor_minus1": precision - 1,
                "gfv_num_matrix_types_minus1": 0,
                "gfv_matrix_type_idx": MATRIX_TYPE,
                "gfv_num_matrices_minus1": 0,
                "gfv_matrix_width_minus1": 0,
                "gfv_matrix_height_minus1": tracks - 1,
            }
        else:
            message["gfv_matrix_pred_flag"] = 1
        elements = now - before
        name = "gfv_matrix_element" if row == 0 else "gfv_matrix_delta_element"
        message[f"{name}_int"] = (np.abs(elements) >> precision).tolist()
        message[f"{name}_dec"] = (np.abs(elements) & ((1 << precision) - 1)).tolist()
        message[f"{name}_sign_flag"] = (elements < 0).astype(int).tolist()
        found.append(message)
        before = now
    return found


def values_of(found: Sequence[Message]) -> tuple[np.ndarray, np.ndarray]:
    """The integers [T, K] and flags [T] of messages. Raises ValueError if they are not as `messages` makes them."""
    try:
        precision = found[0]["gfv_matrix_element_precision_factor_minus1"] + 1
        rows, now = [], np.zeros(found[0]["gfv_matrix_height_minus1"] + 1, np.int64)
        for index, message in enumerate(found):
            name = "gfv_matrix_element" if index == 0 else "gfv_matrix_delta_element"
            whole, part, sign = (np.array(message[f"{name}_{what}"], np.int64) for what in ("int", "dec", "sign_flag"))
            if not len(whole) == len(part) == len(sign) == len(now):
                raise ValueError
            now = now + np.where(sign == 1, -1, 1) * ((whole << precision) + part)
            rows.append(now)
        flags = np.array([message["gfv_low_confidence_face_parameter_flag"] for message in found], bool)
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError("These messages hold no motion of stylereel's.") from error
    return np.stack(rows), flags


def to_json(found: Sequence[Message]) -> str:
    """The messages as JSON, one a line."""
    return "[\n" + ",\n".join(json.dumps(message, separators=(",", ":")) for message in found) + "\n]\n"


def from_json(text: str) -> list[Message]:
    """The messages that `to_json` wrote. Raises ValueError for other text."""
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError("This is no JSON; give what the export wrote.") from error
    if not isinstance(found, list) or not found or not all(isinstance(message, dict) for message in found):
        raise ValueError("This JSON is no list of messages; give what the export wrote.")
    return found


class _Bits:
    """Bits in order, as the standard's descriptors write and read them."""

    def __init__(self, data: bytes = b"") -> None:
        self.bits: list[int] = np.unpackbits(np.frombuffer(data, np.uint8)).tolist()
        self.at = 0

    def put(self, number: int, count: int) -> None:
        self.bits.extend((number >> bit) & 1 for bit in range(count - 1, -1, -1))

    def put_ue(self, number: int) -> None:
        length = (number + 1).bit_length()
        self.put(0, length - 1)
        self.put(number + 1, length)

    def put_string(self, text: str) -> None:
        while len(self.bits) % 8:
            self.put(0, 1)
        for byte in text.encode() + b"\0":
            self.put(byte, 8)

    def close(self) -> bytes:
        """The bytes, ended as a payload is: a 1 and zeros where the last byte is not full."""
        if len(self.bits) % 8:
            self.put(1, 1)
        return np.packbits(np.array(self.bits, np.uint8)).tobytes()

    def get(self, count: int) -> int:
        if self.at + count > len(self.bits):
            raise DamagedError("A message ends too soon.")
        number = 0
        for bit in self.bits[self.at : self.at + count]:
            number = 2 * number + bit
        self.at += count
        return number

    def get_ue(self) -> int:
        zeros = 0
        while not self.get(1):
            zeros += 1
            if zeros > 32:
                raise DamagedError("A message holds a number that the standard does not know.")
        return (1 << zeros) - 1 + self.get(zeros)

    def get_string(self) -> str:
        self.at += -self.at % 8
        out = bytearray()
        while byte := self.get(8):
            out.append(byte)
        return out.decode("utf-8", "replace")


def to_bits(found: Iterable[Message]) -> list[bytes]:
    """The payload of each message, in the standard's bit syntax."""
    return [_payload(message, index == 0) for index, message in enumerate(found)]


def _payload(message: Message, base: bool) -> bytes:
    bits = _Bits()
    bits.put_ue(message["gfv_id"])
    bits.put_ue(message["gfv_cnt"])
    if message["gfv_cnt"] == 0:
        bits.put(message["gfv_base_picture_flag"], 1)
    if base:
        bits.put(message["gfv_nn_present_flag"], 1)
        if message["gfv_nn_present_flag"]:
            bits.put_ue(message["gfv_mode_idc"])
            bits.put_string(message["gfv_uri_tag"])
            bits.put_string(message["gfv_uri"])
        bits.put(message["gfv_chroma_key_info_present_flag"], 1)
    else:
        bits.put(message["gfv_drive_picture_fusion_flag"], 1)
    for name in ("low_confidence_face_parameter", "coordinate_present", "matrix_present"):
        bits.put(message[f"gfv_{name}_flag"], 1)
    if base:
        bits.put_ue(message["gfv_matrix_element_precision_factor_minus1"])
        bits.put_ue(message["gfv_num_matrix_types_minus1"])
        bits.put(message["gfv_matrix_type_idx"], 6)
        for name in ("num_matrices", "matrix_width", "matrix_height"):
            bits.put_ue(message[f"gfv_{name}_minus1"])
    else:
        bits.put(message["gfv_matrix_pred_flag"], 1)
    name = "gfv_matrix_element" if base else "gfv_matrix_delta_element"
    precision = message.get("gfv_matrix_element_precision_factor_minus1", 0) + 1
    for whole, part, sign in zip(message[f"{name}_int"], message[f"{name}_dec"], message[f"{name}_sign_flag"]):
        bits.put_ue(whole)
        bits.put(part, precision) if base else bits.put_ue(part)
        if whole or part:
            bits.put(sign, 1)
    return bits.close()


def from_bits(payloads: Iterable[bytes]) -> list[Message]:
    """The messages of payloads that `to_bits` wrote.

    Raises ValueError where a payload ends too soon, or has what this mapping does not use.
    """
    found: list[Message] = []
    for payload in itertools.islice(payloads, MAX_MESSAGES):
        found.append(_parse(_Bits(payload), found[0] if found else None))
    return found


def _parse(bits: _Bits, base: Message | None) -> Message:
    message: Message = {"gfv_id": bits.get_ue(), "gfv_cnt": bits.get_ue()}
    first = base is None
    if message["gfv_cnt"] == 0:
        message["gfv_base_picture_flag"] = bits.get(1)
    if first:
        if not message.get("gfv_base_picture_flag"):
            raise ValueError("The first message is not of a base picture.")
        message["gfv_nn_present_flag"] = bits.get(1)
        if message["gfv_nn_present_flag"]:
            message["gfv_mode_idc"] = bits.get_ue()
            if message["gfv_mode_idc"] != 1:
                raise ValueError("The message carries a network; this mapping names one by URI.")
            message["gfv_uri_tag"], message["gfv_uri"] = bits.get_string(), bits.get_string()
        message["gfv_chroma_key_info_present_flag"] = bits.get(1)
    else:
        message["gfv_drive_picture_fusion_flag"] = bits.get(1)
    for name in ("low_confidence_face_parameter", "coordinate_present", "matrix_present"):
        message[f"gfv_{name}_flag"] = bits.get(1)
    if message.get("gfv_chroma_key_info_present_flag") or message["gfv_coordinate_present_flag"]:
        raise ValueError("The message has a chroma key or key points, which this mapping does not use.")
    if not message["gfv_matrix_present_flag"]:
        raise ValueError("The message has no matrix.")
    if first:
        message["gfv_matrix_element_precision_factor_minus1"] = bits.get_ue()
        message["gfv_num_matrix_types_minus1"] = bits.get_ue()
        message["gfv_matrix_type_idx"] = bits.get(6)
        for name in ("num_matrices", "matrix_width", "matrix_height"):
            message[f"gfv_{name}_minus1"] = bits.get_ue()
        kinds = message["gfv_num_matrix_types_minus1"], message["gfv_num_matrices_minus1"]
        if kinds != (0, 0) or message["gfv_matrix_width_minus1"] or message["gfv_matrix_type_idx"] < MATRIX_TYPE:
            raise ValueError("The message's matrix is not one column of a free type.")
        if message["gfv_matrix_height_minus1"] >= MAX_SIDE:
            raise ValueError("The message's matrix is larger than the standard allows.")
        if message["gfv_matrix_element_precision_factor_minus1"] > 31:
            raise ValueError("The message's precision is beyond the standard's.")
    else:
        message["gfv_matrix_pred_flag"] = bits.get(1)
        if not message["gfv_matrix_pred_flag"]:
            raise ValueError("The message's matrix is not coded as differences.")
    height = (message if base is None else base)["gfv_matrix_height_minus1"] + 1
    precision = message.get("gfv_matrix_element_precision_factor_minus1", 0) + 1
    whole, part, signs = [], [], []
    for _ in range(height):
        whole.append(bits.get_ue())
        part.append(bits.get(precision) if first else bits.get_ue())
        signs.append(bits.get(1) if whole[-1] or part[-1] else 0)
    name = "gfv_matrix_element" if first else "gfv_matrix_delta_element"
    return message | {f"{name}_int": whole, f"{name}_dec": part, f"{name}_sign_flag": signs}
