"""Half precision is taken where the hardware has it, and nowhere else without a word."""

import warnings

import pytest
import torch

from stylereel.core.precision import choose_precision, has_fast_bf16


@pytest.mark.parametrize(
    ("flags", "fast"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx2": True, "avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"sve_bf16": True}, True),
        ({}, False),
    ],
)
def test_auto_is_what_the_processor_has(monkeypatch: pytest.MonkeyPatch, flags: dict[str, bool], fast: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert has_fast_bf16() == fast and choose_precision("auto") == ("bf16" if fast else "32")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert choose_precision("bf16") == "bf16" and choose_precision("32") == "32"
    assert len(said) == (0 if fast else 1)
    assert choose_precision("auto", "mps") == "32" and choose_precision("auto", "meta") == "32"


def test_auto_is_the_default_everywhere() -> None:
    import inspect

    from stylereel.commands.rendering import RenderOptions
    from stylereel.commands.train import train
    from stylereel.core.render import render
    from stylereel.train.loop import Trainer

    for function in (RenderOptions, train, render, Trainer):
        assert inspect.signature(function).parameters["precision"].default == "auto", function
