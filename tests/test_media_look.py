"""`look`: the right kind of picture for every kind of file, and its pixels where they belong."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from test_media import make_clip, square

from stylereel.latents import Identity, Motion
from stylereel.media import MediaError
from stylereel.media.look import CURVE, GONE, look
from stylereel.media.pictures import save_picture


def motion(path: Path, values: np.ndarray, missing: tuple[int, ...] = ()) -> Path:
    names = tuple(f"track {index}" for index in range(values.shape[1]))
    Motion(values.astype(np.float32), "test", names, Fraction(25), np.zeros((len(values), 4)), missing).save(path)
    return path


def coloured(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Where a picture has a colour, bool [H, W]."""
    return np.abs(picture.astype(int) - colour).max(2) < 20


def test_a_clip_is_a_contact_sheet(tmp_path: Path) -> None:
    page = look([make_clip(tmp_path / "a.mp4", num_frames=12)], columns=3, rows=2, size=32)
    sheet = page[-(2 * 40 + 2) :, : 3 * 32 + 4]  # 24 rows and a label each
    assert sheet.shape == (82, 100, 3)
    small = square(11).astype(int)[::2, ::2]
    assert np.abs(sheet[-24:, -32:].astype(int) - small).mean() < 8


def test_a_folder_of_pictures_is_a_clip_and_pictures_are_a_row(tmp_path: Path) -> None:
    files = [tmp_path / "folder" / f"{index}.png" for index in range(3)]
    for index, file in enumerate(files):
        save_picture(file, square(8 * index))
    folder = look([tmp_path / "folder"], columns=3)
    row = look(files)
    assert row.shape == (48 + 16, 3 * 64 + 4, 3)
    assert np.array_equal(row[16:], folder[-48:, : 3 * 64 + 4])
    assert np.array_equal(look(files[:1])[-48:, :64], square(0))


def test_clips_are_a_row_each(tmp_path: Path) -> None:
    long, wide = make_clip(tmp_path / "a.mp4"), make_clip(tmp_path / "b.mp4", num_frames=2, size=(64, 32))
    page = look([long, wide], columns=4)
    assert page.shape == (2 * 64 + 2, 4 * 64 + 6, 3)
    assert (page[64 + 2 + 16 :, 2 * 66 :] == 255).all()  # the second clip has two frames


def test_a_motion_is_curves(tmp_path: Path) -> None:
    time = np.arange(50)
    page = look([motion(tmp_path / "a.safetensors", np.stack([time, -time, np.ones(50)], 1), missing=(10, 11))])
    curves = coloured(page, CURVE)
    rising, falling = (np.argwhere(curves[22 + 102 * panel :][:100]) for panel in range(2))
    up, down = (float(np.polyfit(points[:, 1], points[:, 0], 1)[0]) for points in (rising, falling))
    assert abs(up + 64 / 364) < 0.02 and abs(down - 64 / 364) < 0.02  # rows a column
    columns = np.flatnonzero(coloured(page, GONE).sum(0) > 100)
    assert 46 + 9.5 / 49 * 364 - 2 < columns.min() < columns.max() < 46 + 11.5 / 49 * 364 + 2


def test_the_tracks_that_vary_most_are_drawn(tmp_path: Path) -> None:
    time = np.arange(20)[:, None]
    many = look([motion(tmp_path / "a.safetensors", time * np.arange(100))])
    assert many.shape[0] < look([motion(tmp_path / "b.safetensors", time * np.arange(48))]).shape[0] + 30


def test_an_identity_is_a_map_of_its_code(tmp_path: Path) -> None:
    code = torch.zeros(6, 64)
    code[2, :32], code[4, 32:] = 1, -1
    Identity(code, "test").save(tmp_path / "a.safetensors")
    page = look([tmp_path / "a.safetensors"])[-6 * 16 :]
    assert (page[:32] == 255).all()
    assert (page[40, 5] == (178, 24, 43)).all() and (page[72, 1000] == (33, 102, 172)).all()


def test_what_cannot_be_looked_at_says_so(tmp_path: Path) -> None:
    saved = motion(tmp_path / "a.safetensors", np.zeros((3, 1)))
    with pytest.raises(ValueError, match="saved motion; look at it alone"):
        look([saved, saved])
    (tmp_path / "b.safetensors").write_text("not one")
    with pytest.raises(ValueError, match="no motion or identity"):
        look([tmp_path / "b.safetensors"])
    with pytest.raises(MediaError, match="There is no file"):
        look([tmp_path / "missing.mp4"])
    with pytest.raises(ValueError, match="larger numbers"):
        look([make_clip(tmp_path / "a.mp4")], columns=0)
