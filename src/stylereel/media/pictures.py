"""Still images: reading and saving files."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from stylereel.core.files import MediaError, ensure_writable, replacing, require_file

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
# Formats that Pillow reads by itself; EPS, for one, it would hand to an outside program.
READ = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
MOST_PIXELS = 2**26  # 8192 x 8192; with an alpha channel, reading so many takes 700 MB
# What Pillow raises for damaged files.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, ArithmeticError, LookupError, TypeError, struct.error)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # our limit is lower


@contextmanager
def opened(file: Path | BinaryIO, name: str | Path) -> Iterator[Image.Image]:
    """An image or animation, opened by Pillow; errors inside the block are about it too.

    Raises:
        MediaError: it is no image, is broken, or has more than MOST_PIXELS.
    """
    try:
        with Image.open(file, formats=READ) as image:
            check_size(*image.size, name)
            yield image
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name, "hundreds of millions of") from error
    except BROKEN as error:
        raise MediaError(f"{name} cannot be read as an image; give a complete PNG, JPEG or WebP file.") from error


def check_size(width: int, height: int, name: str | Path) -> None:
    """Raise MediaError if an image of so many pixels would take too much memory."""
    if width * height > MOST_PIXELS:
        raise _too_large(name, f"{width} x {height}")


def _too_large(name: str | Path, size: str) -> MediaError:
    return MediaError(f"{name} has {size} pixels, more than the {MOST_PIXELS // 10**6} million that fit; reduce it.")


def read_picture(path: str | Path) -> np.ndarray:
    """Read an image as uint8 RGB [H, W, 3], turned as its EXIF data says, transparent parts over white.

    Raises:
        MediaError: the file is missing, empty, broken, no image, or has more than MOST_PIXELS.
    """
    path = require_file(path)
    return decode_picture(path, path)


def decode_picture(file: Path | BinaryIO, name: str | Path) -> np.ndarray:
    """`read_picture` of an open file too; `name` names it in the MediaError."""
    with opened(file, name) as image:
        return to_rgb(ImageOps.exif_transpose(image))


def to_rgb(picture: Image.Image) -> np.ndarray:
    """A Pillow image of any mode as uint8 RGB [H, W, 3], transparent parts over white."""
    if picture.mode.startswith(("I", "F")):  # more than 8 bits a pixel: Pillow would clip at 255, not scale
        return np.repeat(_grey(np.asarray(picture), picture.mode)[..., None], 3, axis=2)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.new("RGB", layer.size, "white")
        picture.paste(layer, mask=layer)
    return np.array(picture.convert("RGB"))


def _grey(values: np.ndarray, mode: str) -> np.ndarray:
    """Grey levels [H, W] as uint8; white is 65535 of 16 bits.

    Files with floats and with 32 bits do not say what white is: the least of 1 (floats only), 255 and 65535 that 99
    of 100 pixels do not exceed, so that highlights may, or else the largest value.
    """
    if mode.startswith("I;16"):
        return (values >> 8).astype(np.uint8)
    values = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    usual, scales = np.quantile(values, 0.99), [1, 255, 65535] if mode == "F" else [255, 65535]
    white = next((scale for scale in scales if usual <= scale), values.max())
    return np.clip(np.round(values * (255 / white)), 0, 255).astype(np.uint8)


def over_white(picture: np.ndarray) -> np.ndarray:
    """uint8 RGBA [H, W, 4] as uint8 RGB [H, W, 3]: laid over white as the alpha channel says."""
    alpha = picture[..., 3:].astype(np.uint16)
    mixed = picture[..., :3] * alpha + 255 * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def save_picture(path: str | Path, picture: np.ndarray, made_by: str = "") -> None:
    """Save uint8 RGB [H, W, 3] as PNG, JPEG or WebP, as the name's ending says.

    A PNG names the command that made it, by which a later run of that command knows that it may replace it.

    Raises:
        MediaError: another ending, or the folder cannot be written.
    """
    file_format = FORMATS[ensure_writable(path, *FORMATS).suffix.lower()]
    with replacing(path) as partial:
        text = PngInfo()
        if made_by:
            text.add_text("Software", f"stylereel {made_by}")
        Image.fromarray(picture).save(
            partial, format=file_format, **({"pnginfo": text} if file_format == "PNG" else {})
        )


def was_made_by(path: Path, command: str) -> bool:
    """Whether a file is a PNG that a command wrote."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get("Software") == f"stylereel {command}"
    except (OSError, ValueError, Image.DecompressionBombError):
        return False
