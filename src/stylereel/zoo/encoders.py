"""Inversion encoders, HFGI and ArcFace from their published files, recognised by what is in them.

| file | what is in it |
|---|---|
| pSp, e4e, ReStyle | state_dict with encoder.* and decoder.*, latent_avg, opts (the training options) |
| HFGI | the same, and residue.*, grid_align.* |
| StyleHEAT | encoder and latent_avg; aligner and encoder; or all in net_G_ema, without latent_avg |
| ArcFace | a state dict with input_layer.*, body.*, output_layer.* |
| safetensors that stylereel wrote | any one of the networks |

Nothing in a file is run. The generator (decoder.*) in a file is read by `formats.load_generator_file`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from stylereel.core.weights import (
    check_finite,
    check_sharing,
    config_of,
    load_module,
    misfits,
    own_kind,
    save_module,
    without_memory,
)
from stylereel.encoders.arcface import ArcFace
from stylereel.encoders.hfgi import HFGI, HFGIConfig
from stylereel.encoders.pyramid import StyleEncoder, StyleEncoderConfig
from stylereel.zoo.configs import mapping, shortened
from stylereel.zoo.unpickle import unpickle

Network = TypeVar("Network", bound=nn.Module)
State = dict[str, Tensor]

STYLE_ENCODER, CORRECTOR, IDENTITY = "style_encoder", "hfgi", "arcface"  # kinds in our files' headers

# What the tensors of an encoder do not show: whether rows are offsets, how levels are up-sampled.
TYPES: dict[str, dict[str, bool]] = {
    "GradualStyleEncoder": {},
    "BackboneEncoderUsingLastLayerIntoW": {},
    "BackboneEncoderUsingLastLayerIntoWPlus": {},
    "BackboneEncoder": {},
    "Encoder4Editing": {"offsets": True},
    "ProgressiveBackboneEncoder": {"offsets": True},
    "StyleHEAT": {"offsets": True, "align_corners": False},
}
STYLEHEAT_PLACES = ("encoder.", "net_G_ema.generator.e4e_encoder.encoder.")
CORRECTOR_MARK = "condition_scale3.0.weight"  # a tensor that marks HFGI's encoder
MAX_LISTED = 12  # tensors in a message
MAX_DEPTH = 4  # of dicts in dicts
MAX_PARTS = 100_000  # of all of them
MAX_NAME = 200


def load_encoder_file(path: str | Path, encoder_type: str | None = None, average: Tensor | None = None) -> StyleEncoder:
    """The pSp, e4e or ReStyle encoder in a published file or one of ours, as float32, ready to use.

    encoder_type: the class that the file was trained as, one of TYPES, for files that do not say.
    average: the mean [D] of the generator's w, for files without latent_avg.

    Raises:
        WeightFileError: the file is damaged or unsafe.
        ValueError: it has no such encoder, or tensors that are missing or of another shape, which are listed.
    """
    if own_kind(path) is not None:
        return _own(path, STYLE_ENCODER, lambda config: StyleEncoder(config_of(StyleEncoderConfig, config)))
    content = unpickle(path)
    tensors = _flatten(path, content)
    if (place := _encoder_place(tensors)) is None:
        raise ValueError(f"{path} holds no encoder of the pSp, e4e or ReStyle kind.")
    options = mapping(mapping(content).get("opts"))
    stated = encoder_type or options.get("encoder_type") or ("StyleHEAT" if place in STYLEHEAT_PLACES else None)
    if not isinstance(stated, str) or stated not in TYPES:
        raise ValueError(
            f"{path} holds an encoder of type {shortened(stated)}; give encoder_type as one of {', '.join(TYPES)}."
        )
    state = _under(tensors, place)
    try:
        config = _config(tensors, state, TYPES[stated])
    except (LookupError, TypeError, ArithmeticError) as error:
        raise ValueError(f"The tensors in {path} do not show the encoder's sizes: {shortened(error)}.") from error
    average = next((value for key, value in tensors.items() if key.endswith("latent_avg")), average)
    if options.get("start_from_latent_avg") is False:
        average = torch.zeros(config.w_dim)
    elif average is None:
        warnings.warn(f"{path} has no latent_avg; set the encoder's average before use.", stacklevel=2)
        average = torch.zeros(config.w_dim)
    return _fill(path, lambda: StyleEncoder(config), _with_average(config, state, average))


def _with_average(config: StyleEncoderConfig, state: State, average: Tensor) -> State:
    if average.numel() == config.w_dim:  # one w for all rows
        average = average.reshape(1, -1).expand(config.rows, -1)
    return {**state, "average": average}


def describe(path: str | Path) -> str:
    """What a published file holds of the networks here, in a few words; empty if nothing.

    For a network that cannot be loaded, the message of the error that loading it gives.
    """
    tensors = _flatten(path, content := unpickle(path))
    parts = []
    if (place := _encoder_place(tensors)) is not None:
        stated = mapping(mapping(content).get("opts")).get("encoder_type")
        parts.append(f"encoder {shortened(stated) if isinstance(stated, str) else 'of unknown type'}")
        try:
            config = _config(tensors, state := _under(tensors, place), {})
            parts.append(f"images of {config.channels} channels; {config.rows} rows of W+ of {config.w_dim}")
            averages = [value for key, value in tensors.items() if key.endswith("latent_avg")]
            average = averages[0] if averages else torch.zeros(config.w_dim)
            _fit(path, lambda: StyleEncoder(config), _with_average(config, state, average))
        except (LookupError, TypeError, ArithmeticError):
            parts.append("tensors are missing")
        except ValueError as error:
            parts.append(str(error).rstrip("."))
        parts.append("with latent_avg" if any(key.endswith("latent_avg") for key in tensors) else "without latent_avg")
    elif any(key.endswith("output_layer.3.weight") for key in tensors):
        parts.append("ArcFace IR-SE50")
    if any(key.endswith(CORRECTOR_MARK) for key in tensors):
        parts.append("HFGI")
    return "; ".join(parts)


def _encoder_place(tensors: State) -> str | None:
    """The prefix of the encoder's tensors, if there is one; its heads distinguish it from ArcFace."""
    heads, block = ("styles.0.linear.weight", "linear.weight"), "body.0.res_layer.1.weight"
    places = [key.removesuffix(block) for key in tensors if key.endswith(block)]
    return min((place for place in places if any(place + head in tensors for head in heads)), key=len, default=None)


def has_hfgi(path: str | Path) -> bool:
    """Whether there is an HFGI in a published file."""
    return own_kind(path) is None and any(key.endswith(CORRECTOR_MARK) for key in _flatten(path, unpickle(path)))


def load_hfgi_file(path: str | Path) -> HFGI:
    """The aligner and residual encoder of HFGI in a published file or one of ours. Raises as load_encoder_file."""
    if own_kind(path) is not None:
        return _own(path, CORRECTOR, lambda config: HFGI(config_of(HFGIConfig, config)))
    tensors = _flatten(path, unpickle(path))
    aligner = _part(path, tensors, "dconv_layer1.0.res_layer.1.weight", "HFGI aligner")
    encoder = _part(path, tensors, CORRECTOR_MARK, "HFGI encoder")
    channels = encoder[CORRECTOR_MARK].shape[:1].numel()
    parts = (("aligner", aligner), ("encoder", encoder))
    state = {f"{name}.{key}": value for name, part in parts for key, value in part.items()}
    return _fill(path, lambda: HFGI(HFGIConfig(channels)), state)


def load_arcface_file(path: str | Path) -> ArcFace:
    """The ArcFace IR-SE50 network in model_ir_se50.pth or one of ours. Raises as load_encoder_file."""
    if own_kind(path) is not None:
        return _own(path, IDENTITY, lambda config: ArcFace())
    state = _part(path, _flatten(path, unpickle(path)), "output_layer.3.weight", "ArcFace network")
    return _fill(path, ArcFace, state)


def load_part(
    path: str | Path,
    mark: str,
    what: str,
    build: Callable[[State], Network],
    rename: Callable[[State], State] = dict,
) -> Network:
    """The network that `build` makes for the tensors around the one whose name ends with `mark`, filled with them.

    what: the network in words, for the sentence; rename: gives the tensors our names. Raises as load_encoder_file.
    """
    state = rename(_part(path, _flatten(path, unpickle(path)), mark, what))
    try:
        return _fill(path, lambda: build(state), state)
    except LookupError as error:
        raise ValueError(f"The {what} in {path} lacks {shortened(error.args[0])}.") from error


def convert(path: str | Path, out: str | Path, kind: str) -> None:
    """Write the network of a kind (style_encoder, hfgi, arcface) in a published file as one of our files."""
    load: Callable[[str | Path], nn.Module] = {
        STYLE_ENCODER: load_encoder_file,
        CORRECTOR: load_hfgi_file,
        IDENTITY: load_arcface_file,
    }[kind]
    save_module(out, kind, load(path), {"source": Path(path).name})


def _config(tensors: State, state: State, settings: dict[str, bool]) -> StyleEncoderConfig:
    """The settings of an encoder, from the shapes of its tensors."""
    first = state["input_layer.0.weight"]
    if "styles.0.linear.weight" in state:
        heads = "pyramid" if "latlayer1.weight" in state else "last"
        w_dim = len(state["styles.0.linear.weight"])
        rows = sum(re.fullmatch(r"styles\.\d+\.linear\.weight", key) is not None for key in state)
    elif "output_layer_2.3.weight" in state:
        heads = "w_plus"
        w_dim = len(state["output_layer_2.3.weight"])
        rows = len(state["linear.weight"]) // w_dim
    else:
        heads = "w"
        w_dim = len(state["linear.weight"])
        colours = sum(re.search(r"decoder\.to_rgbs\.\d+\.bias$", key) is not None for key in tensors)
        rows = 2 * colours + 2 if colours else StyleEncoderConfig.rows  # as many as the generator next to it takes
    return StyleEncoderConfig(
        rows=rows,
        w_dim=w_dim,
        heads=heads,
        channels=first.shape[1],
        width=first.shape[0],
        squeeze="body.0.res_layer.5.fc1.weight" in state,
        **settings,
    )


def _flatten(path: str | Path, content: Any) -> State:
    """The tensors in dicts in dicts, by the names of all joined by points; fractions as float32, once for all names."""
    found: State = {}
    converted: dict[int, Tensor] = {}
    waiting, count = [("", content, 0)], 0
    while waiting:
        prefix, part, depth = waiting.pop(0)
        items = [(key, value) for key, value in mapping(part).items() if type(key) is str and len(key) <= MAX_NAME]
        count += 1 + len(items)
        if count > MAX_PARTS:
            raise ValueError(f"{path} has dicts nested without end.")
        for key, value in items:
            if isinstance(value, Tensor):
                if id(value) not in converted:
                    converted[id(value)] = value.float() if value.is_floating_point() else value
                found[prefix + key] = converted[id(value)]
            elif depth < MAX_DEPTH:
                waiting.append((f"{prefix}{key}.", value, depth + 1))
    check_sharing(path, found)
    return found


def _under(tensors: State, place: str) -> State:
    return {key.removeprefix(place): value for key, value in tensors.items() if key.startswith(place)}


def _part(path: str | Path, tensors: State, mark: str, what: str) -> State:
    """The tensors that share the shortest prefix of a tensor that ends with `mark`."""
    places = [key.removesuffix(mark) for key in tensors if key == mark or key.endswith(f".{mark}")]
    if not places:
        raise ValueError(f"{path} holds no {what}.")
    return _under(tensors, min(places, key=len))


def _fit(path: str | Path, build: Callable[[], Network], state: State) -> tuple[Network, State, list[str]]:
    """The network without memory for its tensors, those of a file for it, and the names of those that it lacks.

    Raises ValueError that lists those that are missing or of another shape.
    """
    try:
        with without_memory():
            network = build()
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(f"The tensors in {path} have sizes that make no network: {shortened(error)}.") from error
    expected = network.state_dict()
    counters = {key: torch.zeros((), dtype=torch.long) for key in expected if key.endswith("num_batches_tracked")}
    unknown = sorted(state.keys() - expected.keys())
    state = counters | {key: value for key, value in state.items() if key in expected}
    problems = [shortened(problem) for problem in misfits(network, state)]
    if problems:
        raise ValueError(f"The tensors in {path} do not fit: {_join(problems)}.")
    check_finite(str(path), state)
    return network, state, unknown


def _fill(path: str | Path, build: Callable[[], Network], state: State) -> Network:
    """The network with a file's tensors. Raises ValueError that lists those that are missing or of another shape."""
    network, state, unknown = _fit(path, build, state)
    if unknown:
        warnings.warn(f"{path} has tensors that are not used: {_join(unknown)}.", stacklevel=3)
    network.to_empty(device="cpu").load_state_dict(state)
    return network.eval().requires_grad_(False)


def _join(phrases: list[str]) -> str:
    more = f"; and {len(phrases) - MAX_LISTED} more" if len(phrases) > MAX_LISTED else ""
    return "; ".join(map(shortened, phrases[:MAX_LISTED])) + more


def _own(path: str | Path, kind: str, build: Callable[[dict[str, Any]], Network]) -> Network:
    return load_module(path, kind, build).eval().requires_grad_(False)
