"""The commands of the pages really run, page by page from top to bottom, in a folder that has the files they name.

Clips are short, numbers of steps are small, and other people's weight files are small stand-ins of the same
architecture. What is not run here is listed with the reason; `test_docs.py` checks its flags. The README's commands run
in `test_first_light.py`.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from test_docs import PAGES, command_lines
from test_encoders import save_checkpoint, small_encoder, small_generator

from stylereel import world
from stylereel.cli import main
from stylereel.media.pictures import save_picture
from stylereel.systems.stylemask.networks import MaskConfig, MaskNets
from stylereel.world.speech import RATE, speak

# A flag's value on the page is replaced by a small one.
SMALLER = {
    "--frames": "30", "--steps": "1", "--count": "2", "--seconds": "0.4", "--size": "64",
    "--start": "0.04", "--duration": "0.2",
}  # fmt: skip
DROPPED = {"--pti"}  # hundreds of steps of a whole generator; test_inversion.py takes a few
# Flags that a command gets unless it has them.
ALSO = {
    "train": {"--scale": "0.001", "--device": "cpu"},
    "world clip": {"--size": "64"},
    "invert": {"--steps": "1"},
    "say": {"--frames": "3", "--voice": "own"},
}  # fmt: skip
# First words of a command: why it is not run.
LEFT_OUT = {
    "train perception": "draws thousands of portraits even at the smallest scale",
    "train generator": "takes minutes at the smallest scale; test_train_adversarial.py trains a small one",
    "train generator3": "takes minutes at the smallest scale; test_stylegan3.py trains a small one",
    "train encoder": "takes minutes at the smallest scale",
    "train family": "trains all of these",
    "train likeness": "learns from thousands of drawn people",
    "train directions": "renders thousands of people",
    "train voice": "makes speech for minutes even at the smallest scale; test_voice.py draws its data",
    "train expressive": "renders thousands of people; test_expressive.py searches planted channels",
    "reproduce expressive": "takes minutes at its smallest; test_expressive.py runs its parts",
    "train stylemask": "takes minutes at the smallest scale, and DECA's files; test_stylemask.py trains a small one",
    "train stylevideogan --folder": "makes three clips of 500 frames; two of the user's are trained here",
    "train stylevideogan --data data/stylevideogan/my-clip.mp4": "needs what prepare makes",
    "train stylefacev": "draws and renders for minutes; test_stylefacev_system.py trains small ones",
    "sample stylefacev --generator": "needs a larger generator; test_stylefacev_system.py makes a small one",
    "sample stylefacev --weights": "needs the authors' files; test_stylefacev_paper.py runs it with small ones",
    "drive stylefacev --weights": "needs the authors' files; test_stylefacev_paper.py runs it with small ones",
    "train styleheat": "takes minutes at the smallest scale; test_styleheat_training.py trains small ones",
    "drive styleheat --source 29 --audio voice.wav --audio-warper runs/styleheat-audio.safetensors": (
        "needs what train styleheat-sound makes"
    ),
    "reproduce stylemask": "test_reproduce.py runs it small",
    "reproduce stylefacev": "test_stylefacev_study.py runs it small",
    "reproduce styleheat": "minutes even when small; test_styleheat_study.py runs its parts",
    "prepare": "needs videos that make a data set; test_corpora.py runs it",
    "live stylemask --source 29": "needs a camera and a desktop",
    "page": "serves until it is ended; test_web.py asks it for everything",
    "weights get": "downloads; test_registry.py does it from a server on this machine",
}


def reason(words: list[str]) -> str | None:
    return next((why for start, why in LEFT_OUT.items() if words[: len(start.split())] == start.split()), None)


def smaller(words: list[str]) -> list[str]:
    """The command with small numbers."""
    short = [SMALLER.get(before, word) for before, word in zip(["", *words], words) if word not in DROPPED]
    for start, flags in ALSO.items():
        if words[: len(start.split())] == start.split():
            short += [word for flag, value in flags.items() if flag not in words for word in (flag, value)]
    return short


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the pages name: clips, portraits and small stand-ins of official weight files."""
    folder = tmp_path_factory.mktemp("files")
    for name, seconds in (("clip.mp4", "0.4"), ("my-clip.mp4", "2.04")):
        assert main(["world", "clip", "--out", str(folder / name), "--seed", "100", "--seconds", seconds]) == 0
    for name in ("portrait.png", "drawn.png", "portrait.jpg", "face.jpg"):
        save_picture(folder / name, world.draw(world.neutral(), 256).image)
    wavfile.write(folder / "voice.wav", RATE, (speak("Hello.").audio * 32767).astype(np.int16))
    generator = small_generator()
    for name, kind in (("e4e_ffhq_encode.pt", "Encoder4Editing"), ("psp_ffhq_encode.pt", "GradualStyleEncoder")):
        save_checkpoint(folder / name, small_encoder(offsets=kind == "Encoder4Editing"), {"encoder_type": kind})
    torch.save(generator.state_dict(), folder / "ffhq.pkl")
    masks = MaskNets(MaskConfig.of(generator, 6))
    torch.save({"mask_net": masks.state_dict(), "num_layers_control": 6}, folder / "mask_network_1024.pt")
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".json"}
    same = {
        "meeting.mp4": "clip.mp4",
        "speaker.mp4": "my-clip.mp4",
        "talk.mp4": "clip.mp4",
        "FILE": "ffhq.pkl",
        "photo.jpg": "portrait.jpg",
    }
    same |= {"cache/stylegan2-ffhq-config-f.pt": "ffhq.pkl", "cache/e4e_ffhq_encode.pt": "e4e_ffhq_encode.pt"}
    same |= {"cache/mask_network_1024.pt": "mask_network_1024.pt"}
    same |= {"RESULT/a.mp4": "clip.mp4", "REFERENCE/a.mp4": "clip.mp4"}
    return found | {name: found[other] for name, other in same.items()}


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES[1:] if any(reason(words) is None for words in command_lines(page))],
    ids=lambda page: page.stem,
)
def test_the_commands_of_a_page_run(
    page: Path,
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tuned_quickly: list[int],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STYLEREEL_CACHE", str(tmp_path / "cache"))
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    for words in command_lines(page):
        if reason(words) is None:
            assert main(smaller(words)) == 0, f"{' '.join(smaller(words))}\n{capsys.readouterr().err}"


def test_every_command_that_is_left_out_is_on_a_page() -> None:
    lines = [words for page in PAGES for words in command_lines(page)]
    unused = [start for start in LEFT_OUT if not any(words[: len(start.split())] == start.split() for words in lines)]
    assert not unused
