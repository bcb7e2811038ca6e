"""Still pictures: read and save files."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from stylereel.core.files import MediaError, ensure_writable, replacing, require_file

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
# Formats that Pillow reads by itself; EPS, for one, it would hand to an outside program.
_READ = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")


def read_picture(path: str | Path) -> np.ndarray:
    """Read a picture as uint8 RGB [H, W, 3], turned as its EXIF data says, transparent parts over white.

    Raises:
        MediaError: the file is missing, empty, broken or no picture.
    """
    path = require_file(path)
    return decode_picture(path, path)


def decode_picture(file: Path | BinaryIO, name: str | Path) -> np.ndarray:
    """`read_picture` of an open file too; `name` stands for it in the MediaError."""
    try:
        with Image.open(file, formats=_READ) as opened:
            return to_rgb(ImageOps.exif_transpose(opened))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"{name} cannot be read as a picture; give a complete PNG, JPEG or WebP file.") from error


def to_rgb(picture: Image.Image) -> np.ndarray:
    """A Pillow picture of any mode as uint8 RGB [H, W, 3], transparent parts over white."""
    if picture.mode.startswith("I"):  # 16 bits a pixel: Pillow would clip at 255, not scale
        return np.repeat((np.asarray(picture) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.array(picture.convert("RGB"))


def over_white(picture: np.ndarray) -> np.ndarray:
    """uint8 RGBA [H, W, 4] as uint8 RGB [H, W, 3]: laid over white as the alpha channel says."""
    alpha = picture[..., 3:].astype(np.uint16)
    mixed = picture[..., :3] * alpha + 255 * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def save_picture(path: str | Path, picture: np.ndarray) -> None:
    """Save uint8 RGB [H, W, 3] as PNG, JPEG or WebP, as the name's ending says.

    Raises:
        MediaError: another ending, or the folder cannot be written.
    """
    file_format = FORMATS[ensure_writable(path, *FORMATS).suffix.lower()]
    with replacing(path) as partial:
        Image.fromarray(picture).save(partial, format=file_format)
