"""The commands `stylereel weights ...`: what a file holds, a safe copy of it, and the official files."""

from __future__ import annotations

from typing import Literal


def weights_info(file: str, /) -> None:
    """Say what a weight file of any known tool holds, a line for each network; nothing in it is run.

    A network that cannot be used has the reason in its line.

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
    beside = "" if kind or is_safetensors(require_file(file)) else describe(file)
    if beside:
        print(beside)
    try:
        for found in inspect_all(file):
            print(found)
    except ValueError:
        if not beside:
            raise


def weights_convert(
    file: str, /, *, out: str, network: Literal["G_ema", "G", "D", "style_encoder", "hfgi", "arcface"] = "G_ema"
) -> None:
    """Copy a network from a weight file of any known tool into a file of stylereel's own.

    Args:
        file: the weight file.
        out: the file to write (.safetensors), in half precision.
        network: which of several networks; G_ema makes the best pictures, D is the discriminator; style_encoder
            (pSp, e4e, ReStyle), hfgi and arcface are those of inversion and identity.
    """
    from stylereel.core.files import ensure_writable
    from stylereel.core.weights import save_module
    from stylereel.zoo.formats import inspect, load_discriminator_file, load_generator_file

    ensure_writable(out, ".safetensors")
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
    """List the built-in and the official weight files: whether they are here, size, licence, and what needs them."""
    from rich.filesize import decimal

    from stylereel.core.builtin import BUILTIN
    from stylereel.core.weights import read_card, read_header
    from stylereel.zoo.registry import ROWS, cache_folder

    files = sorted(BUILTIN.glob("*.safetensors"))
    for path in files:
        kind, licence = read_header(path)["kind"], read_card(path).get("licence", "Apache-2.0")
        print(f"{path.name} (built in, {decimal(path.stat().st_size)}): {kind}; licence: {licence}")
    total = decimal(sum(path.stat().st_size for path in files))
    print(f"The built-in ones ({total} together) are in {BUILTIN}, each beside its card.")

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
    from stylereel.zoo.registry import fetch

    print(fetch(name))


def weights_verify() -> None:
    """Read every official weight file that is here and compare its hash."""
    from stylereel.zoo.registry import cache_folder, verify

    if not verify():
        print(f"There is no official weight file in {cache_folder()}.")
