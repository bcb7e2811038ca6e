"""The commands `weights list`, `weights get` and `weights verify` of the official weight files."""

from __future__ import annotations


def weights_list() -> None:
    """List the official weight files: whether they are here, their size, licence, and what needs them."""
    from rich.filesize import decimal

    from stylereel.weights.registry import ROWS, cache_folder

    folder = cache_folder()
    for row in ROWS:
        path = folder / row.name
        size = path.stat().st_size if path.exists() else row.size
        state = "here" if path.exists() else "by hand" if row.manual else "not here"
        length = "" if size is None else f", {decimal(size)}"
        print(f"{row.name} ({state}{length}): {row.about}; licence: {row.licence}; for {', '.join(row.needed_by)}")
    print(f"They are kept in {folder}; the variable STYLEREEL_CACHE names another folder.")


def weights_get(name: str, /) -> None:
    """Fetch an official weight file, after showing its licence, and check its hash.

    Args:
        name: the file's name, as weights list shows it.
    """
    from stylereel.weights.registry import fetch

    print(fetch(name))


def weights_verify() -> None:
    """Read every official weight file that is here and compare its hash."""
    from stylereel.weights.registry import cache_folder, verify

    if not verify():
        print(f"There is no official weight file in {cache_folder()}.")
