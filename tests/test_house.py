"""The order of the rooms: a room imports those below it, never one above, and nobody's private names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src"
# From the door down; docs/architecture.md says what each is for.
ROOMS = list[str](
    (
        "cli web commands live systems recipes corpora invert metrics train faces edit family zoo encoders world "
        "generator codec media core"
    ).split()
)


def modules() -> dict[str, Path]:
    """All modules of the package by dotted name."""
    names = {path: ".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in SOURCE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imports(path: Path, known: dict[str, Path]) -> Iterator[tuple[str, str]]:
    """What a module imports anywhere in it, also inside functions: (module, name or ""), of this package alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "stylereel")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "stylereel":
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole, "") if whole in known else (node.module, alias.name)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_rooms_import_downwards_only() -> None:
    known, wrong = modules(), []
    for module, path in known.items():
        here = room(module)
        if here in ("", "__main__"):
            continue
        for other, name in imports(path, known):
            there = room(other)
            if there == "":
                if name != "__version__":
                    wrong.append(f"{module} imports {name or 'the package'} from the top")
            elif ROOMS.index(there) < ROOMS.index(here):
                wrong.append(f"{module} -> {other}.{name}")
    assert not wrong, "\n".join(wrong)


def test_every_room_has_a_place() -> None:
    assert {room(module) for module in modules()} - {"", "__main__", "web"} == set(ROOMS) - {"web"}


def test_no_private_names_across_rooms_and_no_system_imports_another() -> None:
    known, wrong = modules(), []
    for module, path in known.items():
        for other, name in imports(path, known):
            private = name.startswith("_") and not name.startswith("__")
            if private and room(other) != room(module):
                wrong.append(f"{module} takes {name} of {other}")
            both = [part.split(".")[2:3] for part in (module, other) if part.startswith("stylereel.systems.")]
            shared = (["sources"], ["__init__"])
            if len(both) == 2 and both[0] != both[1] and both[1] not in shared and known.get(other):
                wrong.append(f"{module} imports the system {other}")
    assert not wrong, "\n".join(wrong)


def test_no_cycles() -> None:
    """Module by module, imports at the top of files alone: they run when the package is imported."""
    known = modules()
    top = {
        module: {
            other
            for other, _ in imports_at_top(path, known)
            if other != module and other in known and not module.startswith(other + ".")
        }
        for module, path in known.items()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for other in top[module]:
                visit(other, (*trail, module))
            done.add(module)

    for module in top:
        visit(module, ())


def imports_at_top(path: Path, known: dict[str, Path]) -> Iterator[tuple[str, str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "stylereel":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole, "") if whole in known else (node.module or "", alias.name)
