"""Images for looking at files: clips as contact sheets, several files as rows, motions and codes as curves, maps."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stylereel.core.builtin import builtin
from stylereel.core.files import ensure_writable, require_file
from stylereel.core.latents import CODES, Codes, Identity, Motion
from stylereel.core.runs import claim
from stylereel.core.system import Device
from stylereel.core.weights import own_kind
from stylereel.media.pictures import FORMATS, check_size, read_picture, save_picture, was_made_by
from stylereel.media.sheet import BACKGROUND, contact_sheet, shrink
from stylereel.media.video import VideoReader
from stylereel.zoo.families import BUILTIN, open_family

INK, PALE, GRID, CURVE, GONE = (40, 40, 40), (130, 130, 130), (215, 215, 215), (31, 119, 180), (250, 215, 215)
PANEL_WIDTH, PANEL_HEIGHT, NUMBERS, NAME = 420, 100, 46, 20  # a track's image, its numbers at the left, its name
MOST_TRACKS = 48
MAIN_TRACKS = 6
SMOOTH = 3  # curves are drawn so many times larger and shrunk


def look(
    *files: str | Path,
    out: str | Path | None = None,
    columns: int = 6,
    rows: int = 4,
    size: int = 192,
    family: str = BUILTIN,
    device: Device = "auto",
    overwrite: bool = False,
) -> Path:
    """Make an overview image of files: frames of clips, curves of a motion; several files go side by side.

    Args:
        files: clips, folders of images, images, or one saved motion, identity or file of codes.
        out: the image to write (.png, .jpg or .webp); null writes FILE-look.png next to the first file.
        columns: frames in a row.
        rows: rows of frames, at most.
        size: longer side of a frame, in pixels.
        family: whose generator shows codes: builtin, ffhq, or a TOML file that names one.
        device: where that generator runs; auto takes a GPU if there is one.
        overwrite: also replace a picture that is there; never one of the files looked at.

    Raises:
        ValueError: as `page_of`, or (MediaError) the image cannot be written.
    """
    if not files:
        raise ValueError("`stylereel look` needs a file; give one or more.")
    first = Path(files[0])
    target = ensure_writable(out or first.with_name(f"{first.stem}-look.png"), *FORMATS)
    claim([target], files, overwrite, lambda path: was_made_by(path, "look"))
    save_picture(target, page_of(files, columns, rows, size, family, device), made_by="look")
    return target


def page_of(
    files: Sequence[str | Path],
    columns: int = 6,
    rows: int = 4,
    size: int = 192,
    family: str = BUILTIN,
    device: Device = "auto",
) -> np.ndarray:
    """An image uint8 [H, W, 3] that shows what is in the files, found from their contents.

    One clip or folder of images: frames evenly spaced from the first to the last. Several: a row of frames for each,
    at the same shares of their lengths; images alone are one row. A motion: the curve of each of its tracks, of
    the 48 that vary most if there are more. An identity: its W+ code, a row a layer. Codes: what the family's generator
    makes of them, if they are its own, over the W+ code of an image or the main tracks of a clip's.

    Args:
        files: clips, folders, images, or one motion, identity or file of codes.
        columns, rows: frames in a row, rows at most.
        size: longer side of a frame, in pixels.
        family, device: whose generator shows codes, and where it runs.

    Raises:
        ValueError: no file, numbers below 1, a saved file among several, or (MediaError) one that cannot be read.
    """
    if not files or min(columns, rows, size) < 1:
        raise ValueError("An overview needs a file, and 1 or more columns, rows and pixels; give larger numbers.")
    check_size(columns * size, rows * size, "The sheet")
    kinds = {str(file): _saved_kind(Path(file)) for file in files}
    saved = next((file for file, kind in kinds.items() if kind), None)
    if saved and len(files) > 1:
        raise ValueError(f"{saved} is a saved {kinds[saved]}; give it alone.")
    if saved:
        if kinds[saved] == "codes":
            return _codes(Path(saved), columns, rows, size, family, device)
        return _motion_curves(Path(saved)) if kinds[saved] == "motion" else _identity(Path(saved))
    if len(files) == 1:
        return _sheet(Path(files[0]), columns, rows, size)
    return _strip([Path(file) for file in files], columns, size)


def _saved_kind(path: Path) -> str | None:
    """What a file that `latents` wrote holds, or None for any other file."""
    if os.path.isdir(path) or require_file(path).suffix != ".safetensors":
        return None
    kind = own_kind(path)
    if kind not in ("motion", "identity", "codes"):
        raise ValueError(f"{path} holds no motion, identity or codes; `stylereel weights info` shows weight files.")
    return kind


def _is_still(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in FORMATS and VideoReader(path).num_frames == 1


def _space(reader: VideoReader, count: int) -> Iterator[tuple[int, np.ndarray]]:
    """`count` frames with their indices, evenly spaced from the first to the last; fewer if there are fewer."""
    count = min(count, reader.num_frames)
    chosen = [round(place * (reader.num_frames - 1) / max(count - 1, 1)) for place in range(count)]
    return ((index, frame) for index, frame in enumerate(reader) if index in chosen)


def _sheet(path: Path, columns: int, rows: int, size: int) -> np.ndarray:
    if _is_still(path):
        picture = read_picture(path)
        title = f"{path.name}   {picture.shape[1]} x {picture.shape[0]}"
        return _add_title(shrink(picture, size), [title])
    reader = VideoReader(path)
    shown = [(index, shrink(frame, size)) for index, frame in _space(reader, columns * rows)]
    page = contact_sheet([frame for _, frame in shown], columns, [_time(reader, index) for index, _ in shown])
    return _add_title(page, _description(reader))


def _strip(paths: list[Path], columns: int, size: int) -> np.ndarray:
    """A row of frames for each clip, or one row of all the images if there are no clips."""
    if all(_is_still(path) for path in paths):
        pictures = [shrink(read_picture(path), size) for path in paths]
        return contact_sheet(_pad(pictures), len(pictures), [path.name for path in paths])
    pictures, labels = [], []
    for path in paths:
        reader = VideoReader(path)
        shown = list(_space(reader, columns))
        pictures += [shrink(frame, size) for _, frame in shown]
        labels += [path.name if not place else _time(reader, index) for place, (index, _) in enumerate(shown)]
        missing = columns - len(shown)  # a short clip leaves places white
        pictures += [np.full((1, 1, 3), BACKGROUND, np.uint8)] * missing
        labels += [""] * missing
    return contact_sheet(_pad(pictures), columns, labels)


def _pad(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """The images in the middle of cells as high as the highest and as wide as the widest."""
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    cells = []
    for picture in pictures:
        cell = np.full((height, width, 3), BACKGROUND, np.uint8)
        top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
        cell[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        cells.append(cell)
    return cells


def _time(reader: VideoReader, index: int) -> str:
    return f"{float(index / reader.rate):.2f} s"


def _description(reader: VideoReader) -> list[str]:
    seconds = float(reader.num_frames / reader.rate)
    sound = "sound" if reader.has_audio else "no sound"
    facts = f"{reader.width} x {reader.height}   {reader.num_frames} frames   {reader.rate} frames a second"
    lines = [f"{reader.path.name}   {facts}   {seconds:.2f} s   {sound}"]
    return lines if reader.timing == "constant" else [*lines, reader.timing]


def _add_title(picture: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """The image under lines of text, made as wide as they need."""
    font = ImageFont.load_default(12)
    width = max(picture.shape[1], *(int(font.getlength(line)) + 12 for line in lines))
    page = Image.new("RGB", (width, picture.shape[0] + 18 * len(lines) + 4), (BACKGROUND,) * 3)
    for row, line in enumerate(lines):
        ImageDraw.Draw(page).text((6, 18 * row + 11), line, fill=INK, font=font, anchor="lm")
    page.paste(Image.fromarray(picture), (0, 18 * len(lines) + 4))
    return np.asarray(page)


def _motion_curves(path: Path) -> np.ndarray:
    motion = Motion.load(path)
    if not len(motion):
        raise ValueError(f"{path} is a motion without frames; extract it again.")
    values, names = motion.values, list(motion.names)
    facts = f"{path.name}   {motion.kind}   {len(motion)} frames   {motion.rate} frames a second"
    lines = [f"{facts}   {float(len(motion) / motion.rate):.2f} s"]
    if motion.missing:
        lines[0] += f"   red: {len(motion.missing)} frames without a face"
    if len(names) > MOST_TRACKS:
        chosen = np.sort(np.argsort(-values.std(0), kind="stable")[:MOST_TRACKS])
        lines.append(f"the {MOST_TRACKS} of {len(names)} tracks that vary most")
        values, names = values[:, chosen], [names[index] for index in chosen]
    panels = [_panel(name, track, motion) for name, track in zip(names, values.T)]
    return _add_title(contact_sheet(panels, 2 if len(panels) > 3 else 1), lines)


def _panel(name: str, track: np.ndarray, motion: Motion) -> np.ndarray:
    """One curve over time, from its lowest to its highest value."""
    image = Image.new("RGB", (PANEL_WIDTH * SMOOTH, PANEL_HEIGHT * SMOOTH), (BACKGROUND,) * 3)
    draw = ImageDraw.Draw(image)
    small, large = (ImageFont.load_default(points * SMOOTH) for points in (10, 12))
    left, right = NUMBERS * SMOOTH, (PANEL_WIDTH - 10) * SMOOTH
    top, bottom = NAME * SMOOTH, (PANEL_HEIGHT - 16) * SMOOTH
    low, high = float(track.min()), float(track.max())
    step = (right - left) / max(len(track) - 1, 1)
    heights = np.full(len(track), (top + bottom) / 2)
    if high > low:
        heights = bottom - (track - low) / (high - low) * (bottom - top)
    for index in motion.missing:
        draw.rectangle((left + (index - 0.5) * step, top, left + (index + 0.5) * step, bottom), fill=GONE)
    draw.text((left, top - 5 * SMOOTH), name, fill=INK, font=large, anchor="ls")
    for place, value in ((top, high), (bottom, low)):
        draw.line((left, place, right, place), fill=GRID, width=SMOOTH)
        if high > low or place == top:
            height = place if high > low else float(heights[0])
            draw.text((left - 4 * SMOOTH, height), f"{value:.3g}", fill=PALE, font=small, anchor="rm")
    seconds = float((len(track) - 1) / motion.rate)
    for share, anchor in ((0.0, "lt"), (0.5, "mt"), (1.0, "rt")):
        place = left + share * (right - left)
        draw.text((place, bottom + 3 * SMOOTH), f"{share * seconds:.2f} s", fill=PALE, font=small, anchor=anchor)
    points = [(left + index * step, float(height)) for index, height in enumerate(heights)]
    draw.line([*points, points[-1]], fill=CURVE, width=round(1.4 * SMOOTH), joint="curve")
    return np.asarray(image.resize((PANEL_WIDTH, PANEL_HEIGHT), Image.Resampling.LANCZOS))


def _identity(path: Path) -> np.ndarray:
    identity = Identity.load(path)
    code = identity.w.float().numpy()
    extra = [f"also holds {', '.join(sorted(identity.tensors))}"] if identity.tensors else []
    picture, facts = _code_map(code)
    return _add_title(picture, [f"{path.name}   {identity.system}   {facts}", *extra])


def _code_map(code: np.ndarray) -> tuple[np.ndarray, str]:
    """A code [L, D] as cells, a row a layer: red above zero, blue below, full colour at the 99th percentile."""
    limit = float(np.quantile(np.abs(code), 0.99)) or 1.0
    share = np.clip(code / limit, -1, 1)[..., None]
    colours = np.where(share > 0, np.array((178, 24, 43)), np.array((33, 102, 172)))
    cells = (BACKGROUND + np.abs(share) * (colours - BACKGROUND)).round().astype(np.uint8)
    wide = max(1, round(1024 / cells.shape[1]))
    layers, width = code.shape
    return cells.repeat(16, axis=0).repeat(wide, axis=1), f"W+ of {layers} layers x {width}, full colour at {limit:.3g}"


def _codes(path: Path, columns: int, rows: int, size: int, family: str, device: Device) -> np.ndarray:
    codes = Codes.load(path)
    count = len(codes)
    named = open_family(family).options(None, ["generator"])
    generator = Path(named["generator"]) if named else builtin("generator")
    parts = _reconstructions(codes, generator, device, columns, rows, size)
    if count == 1:
        picture, facts = _code_map(codes.w[0].float().numpy())
    else:
        picture, facts = _main_tracks(codes)
    tuned = "   with a tuned generator" if codes.delta else ""
    lines = [f"{path.name}   {count} frame{'s' * (count > 1)}   {facts}{tuned}"]
    if not parts:
        which = "the built-in one" if family == BUILTIN else generator.name
        lines.append(f"of another generator than {which}: {codes.generator[:8]}")
    parts.append(picture)
    width = max(part.shape[1] for part in parts)
    wide = [np.pad(part, ((0, 4), (0, width - part.shape[1]), (0, 0)), constant_values=BACKGROUND) for part in parts]
    return _add_title(np.concatenate(wide), lines)


def _reconstructions(codes: Codes, file: Path, device: Device, columns: int, rows: int, size: int) -> list[np.ndarray]:
    """A sheet of what the generator in a file makes of evenly spaced frames; none if the codes are another's."""
    import torch

    from stylereel.core.record import sha256
    from stylereel.core.render import pictures
    from stylereel.core.system import choose_device
    from stylereel.invert.optimise import Fit
    from stylereel.zoo.formats import load_generator_file

    if codes.generator != sha256(file):
        return []
    place = choose_device(device)
    generator = load_generator_file(file).eval().requires_grad_(False).tuned(codes.delta).to(place)
    fit = Fit(codes.w.to(place), {layer: maps.to(place) for layer, maps in codes.features.items()})
    chosen = np.linspace(0, len(codes) - 1, min(columns * rows, len(codes))).round().astype(int).tolist()
    with torch.inference_mode():
        shown = [shrink(pictures(fit[i : i + 1].render(generator))[0], size) for i in chosen]
    return [contact_sheet(shown, columns, [f"{float(i / codes.rate):.2f} s" for i in chosen])]


def _main_tracks(codes: Codes) -> tuple[np.ndarray, str]:
    """Curves of the codes along the directions in which they vary most, and how much of the variance these hold."""
    values = codes.w.flatten(1).double().numpy()
    values = values - values.mean(0)
    some = values[:: len(values) // 500 + 1]  # the products of few frames are smaller than the codes' covariance
    variances, directions = np.linalg.eigh(some @ some.T)
    count = min(MAIN_TRACKS, len(some) - 1)
    axes = some.T @ directions[:, : -count - 1 : -1]
    scores = values @ (axes / np.maximum(np.linalg.norm(axes, axis=0), 1e-9))
    share = variances[: -count - 1 : -1] / max(variances.sum(), 1e-12)
    motion = Motion(scores, CODES, tuple(map(str, range(count))), codes.rate, codes.placement.numpy())
    panels = [
        _panel(f"component {i + 1}, {max(0.0, part):.0%} of the variance", scores[:, i], motion)
        for i, part in enumerate(share)
    ]
    layers, width = codes.w.shape[1:]
    return contact_sheet(panels, 2), f"{codes.rate} frames a second   W+ of {layers} layers x {width}"
