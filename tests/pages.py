"""The parts of the pages that code writes: `python tests/pages.py` writes them, `test_docs.py` says if they are old.

Such a part stands between `<!-- NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from stylereel.core.builtin import BUILTIN
from stylereel.metrics.registry import describe
from stylereel.zoo.registry import ROWS

ROOT = Path(__file__).parents[1]
ENTRY = re.compile(r"^- \*\*([\w ]+):\*\*(.*?)(?=^- \*\*|\Z)", re.MULTILINE | re.DOTALL)  # of a card


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *([cell(text) for text in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cards() -> dict[str, dict[str, str]]:
    """What the card beside each built-in weight file says of it, by the file's name: Data, Licence ..."""
    found: dict[str, dict[str, str]] = {}
    for card in sorted(BUILTIN.glob("*.md")):
        text = card.read_text(encoding="utf-8")
        entries = {key: re.sub(r"\s+", " ", said).strip() for key, said in ENTRY.findall(text)}
        for name in re.findall(r"[\w-]+\.safetensors", text.partition("\n")[0]):
            assert name not in found, f"{name} has two cards"
            found[name] = {"card": card.name, **entries}
    return found


def builtin_licences() -> str:
    known = cards()
    rows = []
    for path in sorted(BUILTIN.glob("*.safetensors")):
        card = known[path.name]
        link = f"[{card['card']}](../src/stylereel/builtin/{card['card']})"
        rows.append([f"`{path.name}`", card["Licence"], card["Data"], link])
    return table(["file", "licence", "trained on", "card"], rows)


def official_licences() -> str:
    rows = []
    for row in ROWS:
        host = re.sub(r"^https?://(www\.)?", "", row.url).split("/")[0]
        source = f"[{host}]({row.url})" + (", by hand" if row.manual else "")
        rows.append([f"`{row.name}`", row.about, row.licence, source, ", ".join(row.needed_by)])
    return table(["file", "what", "licence", "source", "for"], rows)


# page -> part -> what writes it
PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "docs/measures.md": {"measures": describe},
    "docs/licences.md": {"built in": builtin_licences, "official": official_licences},
}


def current(page: str) -> str:
    """The text of a page with its written parts as they should be."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, write in PARTS[page].items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        assert mark and "<!-- end -->" in rest, f"{page} has no part {name}"
        text = f"{before}{mark}{write()}<!-- end -->" + rest.partition("<!-- end -->")[2]
    return text


if __name__ == "__main__":
    for page in PARTS:
        (ROOT / page).write_text(current(page), encoding="utf-8")
