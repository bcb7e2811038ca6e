"""Still pictures: read and save files."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from stylereel.media import MediaError, ensure_writable, replacing, require_file

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def read_picture(path: str | Path) -> np.ndarray:
    """Read a picture as uint8 RGB [H, W, 3], turned as its EXIF data says, transparent parts over white.

    Raises:
        MediaError: the file is missing, empty, broken or no picture.
    """
    path = require_file(path)
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I"):  # 16 bits a pixel: Pillow would clip at 255, not scale
                return np.repeat((np.asarray(picture) >> 8).astype(np.uint8)[..., None], 3, axis=2)
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            return np.array(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"{path} cannot be read as a picture; give a complete PNG, JPEG or WebP file.") from error


def save_picture(path: str | Path, picture: np.ndarray) -> None:
    """Save uint8 RGB [H, W, 3] as PNG, JPEG or WebP, as the name's ending says.

    Raises:
        MediaError: another ending, or the folder cannot be written.
    """
    file_format = _FORMATS[ensure_writable(path, *_FORMATS).suffix.lower()]
    with replacing(path) as partial:
        Image.fromarray(picture).save(partial, format=file_format)
