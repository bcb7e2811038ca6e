"""StyleFaceV with the paper's networks: the verbs with the authors' files, and the paper's training, small."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_stylefacev import save, save_archive
from test_weights_formats import sentinel  # noqa: F401 (a fixture)

from stylereel import systems
from stylereel.cli import main
from stylereel.core.builtin import BUILTIN, builtin
from stylereel.core.latents import Codes, Identity
from stylereel.core.render import render
from stylereel.faces import backend
from stylereel.faces.pose import mean_head
from stylereel.generator import StyleGAN3, StyleGAN3Config
from stylereel.media.video import VideoReader
from stylereel.systems.stylefacev import PoseEncoder, paper, published, training
from stylereel.systems.stylefacev.published import PublishedStyleFaceV
from stylereel.systems.stylefacev.system import StyleFaceV
from stylereel.train.loop import Trainer


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authors' files by their names, as small networks with an appearance encoder of 256 px."""
    place = tmp_path_factory.mktemp("stylefacev")
    torch.manual_seed(4)
    save_archive(place / "weights", place / "sentinel")
    return place / "weights"


def faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faces are found where the mean head would be, since detectors are optional."""
    points = mean_head()[:, :2]
    head = 128 + 60 * (points - points.mean(0)) / np.ptp(points)

    def track(frames: Any, rate: Fraction = Fraction(25), *_: Any) -> backend.Track:
        place = np.stack([head + (2 * index, 0) for index, _ in enumerate(frames)]).astype(np.float32)
        return backend.Track(place, None, np.ones(len(place), bool), rate, (256, 256))

    monkeypatch.setattr(backend, "track", track)
    monkeypatch.setattr(backend, "track_picture", lambda image, *_: track([image]))
    monkeypatch.setattr(backend, "open_backend", lambda detector: None)


# The verbs with the authors' files


def test_sample_and_drive_run_with_the_authors_folder(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = ["--weights", str(archive), "--precision", "32"]
    out = tmp_path / "noise.mkv"
    words = ["sample", "stylefacev", *weights, "--seed", "3", "--frames", "4", "--identity", "5,8", "--out", str(out)]
    assert main(words) == 0 and len(list(VideoReader(out))) == 4
    faces(monkeypatch)
    clip, result = str(BUILTIN / "speaker.mp4"), tmp_path / "driven.mkv"
    driving = ["drive", "stylefacev", *weights, "--source", "5", "--driving", clip, "--frames", "3"]
    assert main([*driving, "--out", str(result)]) == 0 and len(list(VideoReader(result))) == 3
    capsys.readouterr()
    assert main([*driving, "--normalisation", "batch", "--out", str(tmp_path / "x.mp4")]) == 2
    assert "running or image" in capsys.readouterr().err and not (tmp_path / "x.mp4").exists()


@pytest.mark.parametrize("normalisation", ["running", "image"])
def test_any_number_of_frames_at_once_gives_the_same(archive: Path, normalisation: str) -> None:
    system: Any = systems.load("stylefacev", weights=str(archive), normalisation=normalisation)
    assert isinstance(system, PublishedStyleFaceV)
    identity, motion = system.sample(3, 7)
    assert motion.values.shape == (7, 64) and identity.tensors["appearance"].shape == (4, 8, 8)
    assert np.array_equal(system.sample(3, 4)[1].values, motion.values[:4])
    runs = [np.stack(list(render(system, identity, motion, chunk, "32"))).astype(int) for chunk in (1, 3, 7)]
    assert max(np.abs(run - runs[0]).max() for run in runs) <= 2


def test_the_normalisation_is_a_choice_that_is_seen(archive: Path) -> None:
    found = [
        StyleFaceV.from_files(weights=str(archive), normalisation=each).identify(3) for each in ("running", "image")
    ]
    assert not torch.allclose(found[0].tensors["appearance"], found[1].tensors["appearance"], atol=0.1)
    assert torch.equal(found[0].w, found[1].w), "the generator's own code has nothing to do with it"


def test_codes_images_and_saved_identities(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system: Any = StyleFaceV.from_files(weights=str(archive))
    identity = system.identify(5)
    codes = Codes(identity.w.repeat(3, 1, 1), "", Fraction(25), torch.ones(3, 4))
    motion = system.extract(codes)
    assert np.allclose(motion.values, identity.tensors["pose"].numpy(), atol=1e-5)
    relative = system.extract(codes, motion="relative")
    w = [system.apply(identity, each).w for each in (motion, relative)]
    assert relative.kind.relative and torch.allclose(*w, atol=1e-4)
    assert torch.equal(system.identify(codes).w, identity.w)
    identity.save(tmp_path / "who.safetensors")
    assert torch.equal(
        system.identify(Identity.load(tmp_path / "who.safetensors")).tensors["pose"], identity.tensors["pose"]
    )
    faces(monkeypatch)
    seen = system.identify(np.full((256, 256, 3), 90, np.uint8))
    assert seen.tensors["placement"].shape == (4,)
    assert torch.allclose(system.apply(seen, _one(motion, seen)).w[0], seen.w, atol=1e-4), "a picture is its two codes"


def _one(motion: Any, identity: Identity) -> Any:
    return replace(motion.part(0, 1), values=identity.tensors["pose"][None].numpy())


def test_files_that_cannot_be_used(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave out --generator"):
        StyleFaceV.from_files(weights=str(archive), generator=str(builtin("generator3")))
    with pytest.raises(ValueError, match="no such layers"):
        StyleFaceV.from_files(normalisation="image")
    with pytest.raises(ValueError, match="no StyleGAN3 with the mapping"):
        StyleFaceV.from_files(generator=str(builtin("generator")))
    save(archive.parent / "net.pth", PoseEncoder(4, 2))
    with pytest.raises(ValueError):
        StyleFaceV.from_files(weights=str(archive.parent / "net.pth"))


# Maps of known landmarks, and a generator whose input W+ moves


def test_maps_are_highest_at_their_points() -> None:
    points = torch.tensor([[[0.25, 0.5], [0.75, 0.125]]])
    found = published.point_maps(points)
    assert found.shape == (1, 2, 64, 64)
    for index, (x, y) in enumerate(points[0].tolist()):
        row, column = divmod(int(found[0, index].argmax()), 64)
        assert abs(column + 0.5 - 64 * x) <= 0.5 and abs(row + 0.5 - 64 * y) <= 0.5


def test_row_0_moves_a_steered_generator() -> None:
    generator = published.steered(StyleGAN3.load(builtin("generator3"))).eval().requires_grad_(False)
    w = published.still(generator.map(torch.randn(1, 80, generator=torch.Generator().manual_seed(0))))
    moved = w.clone()
    moved[:, 0, 2] = 8 / 128
    first, second = (generator.synthesize(each) for each in (w, moved))
    assert (first[..., :112] - second[..., 8:120]).abs().max() < 1e-3 < (first - second).abs().mean()


# The paper's training


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> StyleGAN3:
    torch.manual_seed(2)
    tiny = StyleGAN3(StyleGAN3Config(128, 80, 256, channel_base=1024, channel_max=16, num_layers=8, filter_size=4))
    monkeypatch.setattr(training.StyleGAN3, "load", lambda _: tiny)
    settings = paper.Settings(2, 2, 2, 2, 2, batch=2, clips=2, clip_frames=12, frames=8, shown=4)
    monkeypatch.setattr(paper, "Settings", lambda **kept: replace(settings, **kept))
    return tiny


def test_the_papers_stages_run_alone_and_in_a_row(
    small: StyleGAN3, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "stylefacev", "--networks", "paper", "--width", "4", "--losses", "code", "--device", "cpu",
               "--precision", "32", "--folder", str(tmp_path)]  # fmt: skip
    file = tmp_path / "stylefacev-paper.safetensors"
    assert main([*command, "--stage", "joint"]) == 2 and "--stage pose first" in capsys.readouterr().err
    before: dict[str, torch.nn.Parameter] = {}
    moved = {"pose": {"pose"}, "appearance": {"appearance"}, "joint": {"pose", "appearance"}, "motion": {"motion"},
             "images": {"motion"}}  # fmt: skip
    for stage, learns in moved.items():
        assert main([*command, "--stage", stage]) == 0
        state = dict(published.load_paper_nets(file).named_parameters())
        changed = {key.split(".")[0] for key, value in state.items() if before and not torch.equal(value, before[key])}
        assert not before or changed == learns, stage
        before = state
    capsys.readouterr()
    assert main([*command[:2], *command[4:]]) == 2 and "--networks paper" in capsys.readouterr().err


def test_presets_weigh_as_the_paper_and_as_the_code() -> None:
    (b, video, image), (b2, video2, image2) = paper.PRESETS["paper"], paper.PRESETS["code"]
    assert (b.pixels, b2.pixels, b.w, b2.w) == (10, 1, 100, 100) and (b.points, b2.points) == (10, 0)
    assert (video.gan, video2.gan, image.gan, image2.gan) == (0.1, 0.01, 0.01, 0)
    assert video[:3] == video2[:3] == (10, 100, 1) and image[:4] == image2[:4] == (1, 10, 0.1, 1)
    losses = {"pixels": torch.tensor(1.0), "w": torch.tensor(2.0)}
    assert paper._total(losses, b) == 210


def test_the_discriminator_of_frames_joins_late(small: StyleGAN3, tmp_path: Path) -> None:
    nets = published.PaperNets(published.Config(small.num_ws, 256, 4))
    seen: list[dict[str, Any]] = []

    class Watched(Trainer):
        def fit(self, name: str, modules: Any, optimizers: Any, step: Any, steps: int, **kept: Any) -> None:
            seen.extend(step(index) for index in range(steps))

    settings = replace(paper.Settings(), joint_steps=2, late=0.5, width=4)
    trainer = Watched(tmp_path, device="cpu", precision="32")
    face = paper.FaceNet().eval().requires_grad_(False)
    paper.train(trainer, nets, small.eval().requires_grad_(False), face, ["joint"], "paper", settings)
    assert "video gan" not in seen[0] and {"video gan", "image gan", "video discriminator"} <= seen[1].keys()
