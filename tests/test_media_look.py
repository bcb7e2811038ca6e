"""`look`: the right kind of picture for every kind of file, and its pixels where they belong."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from test_media import make_clip, square

from stylereel.commands.look import CURVE, GONE, page_of
from stylereel.core.builtin import builtin
from stylereel.core.files import MediaError
from stylereel.core.latents import Codes, Identity, Motion, MotionKind
from stylereel.core.record import sha256
from stylereel.core.render import pictures
from stylereel.generator import StyleGAN2
from stylereel.media.pictures import save_picture
from stylereel.media.sheet import shrink


def motion(path: Path, values: np.ndarray, missing: tuple[int, ...] = ()) -> Path:
    names = tuple(f"track {index}" for index in range(values.shape[1]))
    Motion(
        values.astype(np.float32), MotionKind("test"), names, Fraction(25), np.zeros((len(values), 4)), missing
    ).save(path)
    return path


def coloured(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Where a picture has a colour, bool [H, W]."""
    return np.abs(picture.astype(int) - colour).max(2) < 20


def test_a_clip_is_a_contact_sheet(tmp_path: Path) -> None:
    page = page_of([make_clip(tmp_path / "a.mp4", num_frames=12)], columns=3, rows=2, size=32)
    sheet = page[-(2 * 40 + 2) :, : 3 * 32 + 4]  # 24 rows and a label each
    assert sheet.shape == (82, 100, 3)
    small = square(11).astype(int)[::2, ::2]
    assert np.abs(sheet[-24:, -32:].astype(int) - small).mean() < 8


def test_a_folder_of_pictures_is_a_clip_and_pictures_are_a_row(tmp_path: Path) -> None:
    files = [tmp_path / "folder" / f"{index}.png" for index in range(3)]
    for index, file in enumerate(files):
        save_picture(file, square(8 * index))
    folder = page_of([tmp_path / "folder"], columns=3)
    row = page_of(files)
    assert row.shape == (48 + 16, 3 * 64 + 4, 3)
    assert np.array_equal(row[16:], folder[-48:, : 3 * 64 + 4])
    assert np.array_equal(page_of(files[:1])[-48:, :64], square(0))


def test_clips_are_a_row_each(tmp_path: Path) -> None:
    long, wide = make_clip(tmp_path / "a.mp4"), make_clip(tmp_path / "b.mp4", num_frames=2, size=(64, 32))
    page = page_of([long, wide], columns=4)
    assert page.shape == (2 * 64 + 2, 4 * 64 + 6, 3)
    assert (page[64 + 2 + 16 :, 2 * 66 :] == 255).all()  # the second clip has two frames


def test_a_motion_is_curves(tmp_path: Path) -> None:
    time = np.arange(50)
    page = page_of([motion(tmp_path / "a.safetensors", np.stack([time, -time, np.ones(50)], 1), missing=(10, 11))])
    curves = coloured(page, CURVE)
    rising, falling = (np.argwhere(curves[22 + 102 * panel :][:100]) for panel in range(2))
    up, down = (float(np.polyfit(points[:, 1], points[:, 0], 1)[0]) for points in (rising, falling))
    assert abs(up + 64 / 364) < 0.02 and abs(down - 64 / 364) < 0.02  # rows a column
    columns = np.flatnonzero(coloured(page, GONE).sum(0) > 100)
    assert 46 + 9.5 / 49 * 364 - 2 < columns.min() < columns.max() < 46 + 11.5 / 49 * 364 + 2


def test_the_tracks_that_vary_most_are_drawn(tmp_path: Path) -> None:
    time = np.arange(20)[:, None]
    many = page_of([motion(tmp_path / "a.safetensors", time * np.arange(100))])
    assert many.shape[0] < page_of([motion(tmp_path / "b.safetensors", time * np.arange(48))]).shape[0] + 30


def test_an_identity_is_a_map_of_its_code(tmp_path: Path) -> None:
    code = torch.zeros(6, 64)
    code[2, :32], code[4, 32:] = 1, -1
    Identity(code, "test").save(tmp_path / "a.safetensors")
    page = page_of([tmp_path / "a.safetensors"])[-6 * 16 :]
    assert (page[:32] == 255).all()
    assert (page[40, 5] == (178, 24, 43)).all() and (page[72, 1000] == (33, 102, 172)).all()


def test_codes_of_the_built_in_generator_are_pictures_over_a_map_or_tracks(tmp_path: Path) -> None:
    generator = StyleGAN2.load(builtin("generator"))
    w = generator.map(torch.randn(2, generator.config.z_dim, generator=torch.Generator().manual_seed(0)))
    share = torch.linspace(0, 1, 9)[:, None, None]
    clip = torch.lerp(w[:1], w[1:], share)
    for name, part in (("one", clip[:1]), ("clip", clip)):
        made = Codes(part, sha256(builtin("generator")), Fraction(25), torch.zeros(len(part), 4))
        made.save(tmp_path / f"{name}.safetensors")
    page = page_of([tmp_path / "clip.safetensors"], columns=3, rows=1, size=64)
    with torch.no_grad():
        wanted = pictures(generator.synthesize(clip[4:5]))[0]
    found = page[22 + 16 :][:64, 66:130]
    assert np.abs(found.astype(int) - shrink(wanted, 64)).max() <= 1
    # What varies most is the way from the one to the other.
    rising = np.argwhere(coloured(page[22 + 80 + 4 :][:100, :420], CURVE))
    assert abs(abs(float(np.polyfit(rising[:, 1], rising[:, 0], 1)[0])) - 64 / 364) < 0.02
    one = page_of([tmp_path / "one.safetensors"], size=64)
    assert one.shape[0] > 14 * 16 + 64 and coloured(one, (178, 24, 43)).any()


def test_codes_of_another_generator_are_a_map_and_say_so(tmp_path: Path) -> None:
    code = torch.zeros(1, 6, 64)
    code[0, 2, :32], code[0, 4, 32:] = 1, -1
    Codes(code, "0123456789", Fraction(1), torch.zeros(1, 4)).save(tmp_path / "a.safetensors")
    page = page_of([tmp_path / "a.safetensors"])[-6 * 16 - 4 : -4]
    assert (page[:32] == 255).all()
    assert (page[40, 5] == (178, 24, 43)).all() and (page[72, 1000] == (33, 102, 172)).all()


def test_what_cannot_be_looked_at_says_so(tmp_path: Path) -> None:
    saved = motion(tmp_path / "a.safetensors", np.zeros((3, 1)))
    with pytest.raises(ValueError, match="saved motion; give it alone"):
        page_of([saved, saved])
    (tmp_path / "b.safetensors").write_text("not one")
    with pytest.raises(ValueError, match="no motion, identity or codes"):
        page_of([tmp_path / "b.safetensors"])
    with pytest.raises(MediaError, match="There is no file"):
        page_of([tmp_path / "missing.mp4"])
    with pytest.raises(ValueError, match="larger numbers"):
        page_of([make_clip(tmp_path / "a.mp4")], columns=0)
