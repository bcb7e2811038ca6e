"""What both generators share: names, indices and conventions of style vectors, and resizing."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from stylereel.generator import StyleGAN2, StyleGAN2Config, StyleGAN3, StyleGAN3Config, StyleSpace

GOLDENS = Path(__file__).parent / "goldens"


def small(kind: str) -> StyleGAN2 | StyleGAN3:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"z_dim": 8, "w_dim": 8, "channel_base": 256, "channel_max": 12}
    if kind == "stylegan2":
        return StyleGAN2(StyleGAN2Config(32, **settings))
    return StyleGAN3(StyleGAN3Config(32, **settings, num_layers=4))


def test_offsets_equal_published_table() -> None:
    table = json.loads((GOLDENS / "sg2_style_space_1024.json").read_text())
    with torch.device("meta"):
        space = StyleGAN2(StyleGAN2Config(1024)).style_space
    assert space.size == table["total"] == 9088
    for row in table["layers"]:
        assert space.flat_index(row["layer"], 0) == row["offset"]
        assert space.address(row["offset"] + row["channels"] - 1)[0].name == row["layer"]


@pytest.mark.parametrize("kind", ["stylegan2", "stylegan3"])
def test_flat_styles_give_the_same_image(kind: str) -> None:
    generator = small(kind)
    space = generator.style_space
    w = torch.randn(2, generator.num_ws, 8)
    s = generator.styles(w)
    flat = space.flatten(s)
    assert flat.shape == (2, space.size)
    assert torch.equal(generator.synthesize(s=space.unflatten(flat)), generator.synthesize(w))


@pytest.mark.parametrize("kind", ["stylegan2", "stylegan3"])
def test_addresses_name_the_same_number(kind: str) -> None:
    generator = small(kind)
    space = generator.style_space
    s = [torch.randn(1, layer.channels) for layer in generator.style_layers]
    flat = space.flatten(s)
    for index in range(space.size):
        layer, channel = space.address(index)
        assert space.flat_index(layer.index, channel) == space.flat_index(layer.name, channel) == index
        assert flat[0, index] == s[layer.index][0, channel]
    assert space.layer(1) == space.layer(generator.style_layers[1].name) == generator.style_layers[1]


@pytest.mark.parametrize("kind", ["stylegan2", "stylegan3"])
def test_rgb_gain_goes_in_and_out(kind: str) -> None:
    space = small(kind).style_space
    s = [torch.randn(1, layer.channels) for layer in space.layers]
    scaled = space.scale_rgb(s)
    for layer, before, after in zip(space.layers, s, scaled, strict=True):
        factor = 1 / math.sqrt(layer.channels) if layer.kind == "rgb" else 1.0
        torch.testing.assert_close(after, before * factor)
    torch.testing.assert_close(space.unscale_rgb(scaled), s)


def test_scaled_rgb_styles_are_those_of_the_other_family() -> None:
    """There the colours are the plain product of the scaled style, the weight and the feature."""
    generator = small("stylegan2").requires_grad_(False)
    w = torch.randn(1, generator.num_ws, 8)
    s = generator.styles(w)
    x = generator.synthesize(w, stop="b4.conv1", noise="none")
    layer = generator.synthesis.get_submodule("b4.torgb")
    scaled = generator.style_space.scale_rgb(s)[1]
    colours = torch.einsum("bihw,bi,oi->bohw", x, scaled, layer.get_parameter("weight").flatten(1))
    torch.testing.assert_close(generator.synthesize(w, stop="b4.torgb", noise="none"), colours)


@pytest.mark.parametrize("kind", ["stylegan2", "stylegan3"])
def test_resize_averages_the_image(kind: str) -> None:
    generator = small(kind)
    w = torch.randn(2, generator.num_ws, 8)
    image = generator.synthesize(w)
    averaged = image.reshape(2, 3, 8, 4, 8, 4).mean(dim=(3, 5))
    torch.testing.assert_close(generator.synthesize(w, resize=8), averaged)
    with pytest.raises(ValueError, match="1 to 32 pixels, not to 64"):
        generator.synthesize(w, resize=64)
    with pytest.raises(ValueError, match="stop layer or resize"):
        generator.synthesize(w, resize=8, stop=0)


def test_mistakes_are_explained() -> None:
    space = small("stylegan2").style_space
    assert isinstance(space, StyleSpace)
    s = [torch.zeros(1, layer.channels) for layer in space.layers]
    with pytest.raises(ValueError, match="no layer 'b64.conv0'"):
        space.layer("b64.conv0")
    with pytest.raises(ValueError, match="no channel 12 in b4.conv1; choose one below 12"):
        space.flat_index(0, 12)
    with pytest.raises(ValueError, match="no channel -1"):
        space.flat_index(0, -1)
    for index in (-1, space.size):
        with pytest.raises(ValueError, match=f"no style channel {index}; choose one below {space.size}"):
            space.address(index)
    with pytest.raises(ValueError, match="style vectors of lengths"):
        space.flatten(s[1:])
    with pytest.raises(ValueError, match="style vectors of lengths"):
        space.scale_rgb(s[1:])
    with pytest.raises(ValueError, match=f"flat styles of {space.size} numbers"):
        space.unflatten(torch.zeros(1, 7))
