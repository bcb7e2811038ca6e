"""The pages: their Python and the notebooks run as they stand, their tables are current, their links lead somewhere."""

import inspect
import json
import re
import shlex
from pathlib import Path

import pages
import pytest
import toy
from pages import ROOT
from test_house import ROOMS

from stylereel.cli import main
from stylereel.core.builtin import BUILTIN
from stylereel.core.version import __version__
from stylereel.core.weights import read_header

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/**/*.md"))
# What the Python of a page takes from its reader; clip.mp4 and my-clip.mp4 are in the folder.
GIVEN = {
    "docs/built-in.md": """
import numpy, torch
z, w = numpy.random.default_rng(0).standard_normal(80), torch.zeros(1, 14, 256)
numpy.savez("ffhq_PCA.npz", X_comp=numpy.ones((80, 512), "f4"), X_stdev=numpy.ones(80, "f4"))
""",
    "docs/codec.md": """
import re, stylereel
identity, motion = stylereel.load("stylevideogan").sample(3, 501)
HEX = re.search(r"```text\\n([0-9a-f\\n]+)```", PAGE)[1].replace("\\n", "")
""",
    "docs/faces.md": """
import numpy
from stylereel.faces.paste import paste
reader, crops = numpy.zeros((2, 64, 64, 3), "u1"), numpy.ones((2, 32, 32, 3), "u1")
rows = numpy.tile([32.0, 32.0, 40.0, 0.0], (2, 1))
""",
    "docs/systems/stylefacev.md": """
import torch
from pathlib import Path
from test_stylefacev import save_archive
save_archive(Path("weights"), Path("never-run"))
images, faces, noise = torch.rand(2, 3, 200, 200), torch.rand(1, 3, 256, 256), torch.randn(1, 5, 64)
""",
}


def python_of(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    assert main(["world", "clip", "--out", str(path), "--seed", "100", "--seconds", "0.4"]) == 0
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path: Path, clip: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("clip.mp4", "my-clip.mp4"):
        (tmp_path / name).write_bytes(clip)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES if python_of(page)])
def test_the_python_of_a_page_runs(page: str, folder: Path) -> None:
    """In one namespace from top to bottom, in a folder of its own."""
    names: dict[str, object] = {"PAGE": (ROOT / page).read_text(encoding="utf-8")}
    exec(GIVEN.get(page, ""), names)
    for block in python_of(ROOT / page):
        exec(compile(block, page, "exec"), names)


def test_pages_are_given_nothing_that_they_do_not_need() -> None:
    assert all(python_of(ROOT / page) for page in GIVEN)


@pytest.mark.parametrize("notebook", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_and_holds_no_outputs(notebook: Path, folder: Path) -> None:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert content["nbformat"] == 4 and len(cells) >= 2
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    names: dict[str, object] = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), notebook.name, "exec"), names)


@pytest.mark.parametrize("page", pages.PARTS)
def test_what_code_writes_in_a_page_is_current(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text == pages.current(page), f"{page} is out of date; run python tests/pages.py."


def test_every_built_in_file_has_a_card_with_its_licence_and_data() -> None:
    cards = pages.cards()
    assert set(cards) == {path.name for path in BUILTIN.glob("*.safetensors")}
    assert all(card.get("Licence") and card.get("Data") for card in cards.values())


def test_no_built_in_file_tells_of_a_folder_of_the_machine_that_made_it() -> None:
    for path in BUILTIN.glob("*.safetensors"):
        assert not re.search(r"(?<![\w./])(?:/|[A-Za-z]:\\)\w", " ".join(read_header(path).values())), path.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_programs_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [name for name in re.findall(r"\b(?:benchmarks|tests)/\w+\.py\b", text) if not (ROOT / name).exists()]
    assert not missing


def command_lines(page: Path) -> list[list[str]]:
    """The words of every `stylereel ...` or `python3 run.py ...` in the fenced blocks of a page, comments left out."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    text = "".join(block for language, block in blocks if not language)
    lines = text.replace("\\\n", " ").splitlines()
    starts = re.compile(r"^(?:.* -m )?(?:stylereel|python3 run\.py) (?:--keep-memory )?(?!test|lint)([a-z].*)")
    return [shlex.split(found[1], comments=True) for line in lines if (found := starts.match(line.strip()))]


@pytest.mark.parametrize("page", [page for page in PAGES if command_lines(page)], ids=lambda page: page.stem)
def test_the_commands_of_a_page_and_their_flags_exist(page: Path) -> None:
    for words in command_lines(page):
        command = next((name for name in pages.COMMANDS if words[: len(name.split())] == name.split()), None)
        assert command, f"there is no command {' '.join(words)}"
        known = pages.shared_flags(command)
        if pages.takes_subject(command) and words[1] != "SYSTEM":
            assert words[1] in pages.subjects(command), " ".join(words)
            known += pages.own_flags(command, words[1])
        flags = [word.split("=")[0] for word in words if word.startswith("--")]
        missing = [flag for flag in flags if f"| `{flag}` |" not in known.replace("--no-", "--")]
        assert not missing, f"{command} has no {missing}"


def test_the_readme_names_every_page() -> None:
    """All but the notes on trials."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    names = [page.relative_to(ROOT).as_posix() for page in PAGES[1:] if "notes" not in page.parts]
    assert not [name for name in names if f"({name})" not in text]


def test_the_page_on_architecture_names_the_rooms_in_their_order() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = re.findall(r"^\| `(\w+)(?:\.py)?` \|", text.partition("## The contracts")[0], re.MULTILINE)
    assert rooms == [room for room in ROOMS if (BUILTIN.parent / room).exists() or room == "cli"] + ["builtin"]


def test_the_page_on_architecture_explains_every_function_of_the_toy() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## Add a system")[2]
    functions = [toy.Toy.__dict__[name] for name in vars(toy.Toy) if not name.startswith("_")] + [toy.train, toy.study]
    for function in filter(inspect.isfunction, functions):
        words = [name for name in inspect.signature(function).parameters if name != "self"]
        keywords = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        said = ", ".join(("*, " if keywords and word == keywords[0] else "") + word for word in words)
        assert f"| `{function.__name__}({said})` |" in text, f"{function.__name__}({said})"


def test_the_citation_is_of_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in text and text.count("type: article") == 5
