"""The commands `stylereel weights ...`: what a file holds, a safe copy of it, and the official files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from stylereel.zoo.registry import Row, cache_folder


def weights_info(file: str, /) -> None:
    """List the networks in a weight file of any known tool; no code in the file is run.

    For a network that cannot be used, the line says why.

    Args:
        file: the weight file.
    """
    from stylereel.core.files import require_file
    from stylereel.core.weights import own_kind, read_tensors
    from stylereel.zoo.encoders import describe
    from stylereel.zoo.formats import inspect_all, is_safetensors

    kind = own_kind(file)
    if kind not in (None, "stylegan2", "stylegan3", "discriminator"):
        read_tensors(file)  # a damaged file is refused
        print(f"network of kind {kind}; stylereel")
        return
    other = "" if kind or is_safetensors(require_file(file)) else describe(file)
    if other:
        print(other)
    try:
        for found in inspect_all(file):
            print(found)
    except ValueError:
        if not other:
            raise


def weights_convert(
    file: str,
    /,
    *,
    out: str,
    network: Literal["G_ema", "G", "D", "style_encoder", "hfgi", "arcface"] = "G_ema",
    overwrite: bool = False,
) -> None:
    """Convert a network in a weight file of any known tool to stylereel's own format.

    Args:
        file: the weight file.
        out: the file to write (.safetensors), in half precision.
        network: which network of the file: G_ema (the averaged generator, the best images), G, D (the discriminator),
            style_encoder (pSp, e4e, ReStyle), hfgi, or arcface (the identity network).
        overwrite: also replace a file that is there; never the one that is copied.
    """
    from stylereel.core.files import ensure_writable
    from stylereel.core.runs import claim
    from stylereel.core.weights import save_module
    from stylereel.zoo.formats import inspect, load_discriminator_file, load_generator_file

    claim([ensure_writable(out, ".safetensors")], [file], overwrite)
    if network in ("style_encoder", "hfgi", "arcface"):
        from stylereel.zoo.encoders import convert

        convert(file, out, network)
        return weights_info(out)
    if network == "D":
        save_module(out, "discriminator", load_discriminator_file(file))
    else:
        generator = load_generator_file(file, network)
        generator.save(out, generator.card)
    print(f"{out}: {inspect(out)}")


def weights_list() -> None:
    """List the built-in and the official weight files: whether each is downloaded, its size, licence and use."""
    from rich.filesize import decimal

    from stylereel.core.builtin import BUILTIN
    from stylereel.core.weights import read_card, read_header
    from stylereel.zoo.registry import ROWS

    files = sorted(BUILTIN.glob("*.safetensors"))
    for path in files:
        kind, licence = read_header(path)["kind"], read_card(path).get("licence", "Apache-2.0")
        print(f"{path.name} (built in, {decimal(path.stat().st_size)}): {kind}; licence: {licence}")
    total = decimal(sum(path.stat().st_size for path in files))
    print(f"The built-in ones ({total} together) are in {BUILTIN}, each next to its card.")

    folder = cache_folder()
    for row in ROWS:
        path = folder / row.name
        size = path.stat().st_size if path.exists() else row.size
        state = "downloaded" if path.exists() else "download by hand" if row.manual else "not downloaded"
        length = "" if size is None else f", {decimal(size)}"
        print(f"{row.name} ({state}{length}): {row.about}; licence: {row.licence}; for {', '.join(row.needed_by)}")
    print(f"Downloads are in {folder}; the environment variable STYLEREEL_CACHE sets another folder.")


def weights_get(*names: str, family: str | None = None, for_: str | None = None, yes: bool = False) -> list[Path]:
    """Download official weight files after showing their licences; interrupted downloads resume, hashes are checked.

    Args:
        names: names of files, as `weights list` shows them.
        family: download all files of a family instead: ffhq, or a TOML file.
        for_: with --family, the system to download for; all systems if not given.
        yes: agree to the licences of a family's files without being asked.
    """
    from stylereel.zoo.registry import fetch

    if (family is None) == (not names):
        raise ValueError("Name weight files, or give --family.")
    if family is None:
        return [fetch(name) for name in names]
    rows = _family_rows(family, for_)
    if todo := [row for row in rows if not (cache_folder() / row.name).exists()]:
        _ask(todo, yes)
    made, by_hand = [], []
    for row in rows:
        if row.manual and not (cache_folder() / row.name).exists():
            by_hand.append(f"{row.name} ({row.licence}) at {row.url}")
        else:
            made.append(fetch(row.name))
    if by_hand:
        raise ValueError(f"No program can fetch {'; '.join(by_hand)}; get it there and put it in {cache_folder()}.")
    return made


def _family_rows(name: str, system: str | None) -> list[Row]:
    """The registry's rows that a family needs for a system, or for all."""
    from stylereel.zoo.families import open_family

    family = open_family(name)
    if system is not None:
        from stylereel.systems import find

        find(system)
    paths = family.of(system) if system else {path: path for files in family.files.values() for path in files.values()}
    return list({row.name: row for path in paths.values() if (row := family.rows.get(path))}.values())


def _ask(rows: list[Row], yes: bool) -> None:
    """Show what is to be fetched, and ask once. Raises ValueError if the answer is no, or the input is no terminal."""
    from rich.filesize import decimal

    for row in rows:
        size = "size unknown" if row.size is None else decimal(row.size)
        known = f"SHA-256 {row.sha256}" if row.sha256 else "no published hash; the first download's is kept"
        print(f"{row.name}: {row.about}; {size}; {known}; licence: {row.licence}")
    if yes:
        return
    if not sys.stdin.isatty():
        raise ValueError("These licences need your agreement; give --yes to agree.")
    if input("Download these files under these licences? [y/N] ").strip().lower() not in ("y", "yes"):
        raise ValueError("Nothing was downloaded.")


def weights_verify() -> None:
    """Check the hash of every downloaded weight file."""
    from stylereel.zoo.registry import verify

    if not verify():
        print(f"There is no downloaded weight file in {cache_folder()}.")
