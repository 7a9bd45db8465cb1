"""The floors of the package: imports run downwards only, and no rooms import each other in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {
    5: ("train", "evaluate", "export", "vocab", "shards", "demo", "compare"),
    4: ("methods", "comparison"),
    3: ("batches", "models"),
    2: ("vocabulary", "losses"),
    1: (
        "_native",
        "kernels",
        "corpus",
        "training",
        "tasks",
        "report",
        "cli",
        "config",
        "config_checks",
        "method_defaults",
        "options",
        "files",
        "errors",
    ),
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}


def _modules() -> Iterator[tuple[str, tuple[str, ...], Path]]:
    """(room, package of the module, file) for every module of the package."""
    for folder, package in (
        (ROOT / "edad_fast", ("edad_fast",)),
        (ROOT / "kernels", ("edad_fast", "kernels")),
    ):
        for file in sorted(folder.rglob("*.py")):
            inside = file.relative_to(folder).with_suffix("").parts
            if package == ("edad_fast",) and inside[0] == "kernels":
                continue  # a link that the linters need
            full = (*package, *inside)
            if full != ("edad_fast", "__init__"):
                yield full[1], full[:-1], file


def _rooms_imported(package: tuple[str, ...], file: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            target = (*base, *(node.module.split(".") if node.module else ()))
            names = [(*target, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        else:
            continue
        rooms |= {name[1] for name in names if name[0] == "edad_fast" and len(name) > 1 and name[1] in FLOOR}
    return rooms


def _graph() -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for room, package, file in _modules():
        graph.setdefault(room, set()).update(_rooms_imported(package, file) - {room})
    return graph


def test_every_room_has_a_floor() -> None:
    assert {room for room, _, _ in _modules()} <= set(FLOOR)


def test_imports_run_downwards_without_circles() -> None:
    graph = _graph()
    assert "losses" in graph["methods"], "the imports are not seen"
    upwards = [(room, used) for room, rooms in graph.items() for used in rooms if FLOOR[used] > FLOOR[room]]
    assert not upwards
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_kernels_need_nothing_of_the_package() -> None:
    assert _graph()["kernels"] == set()


def test_files_stay_readable_in_one_sitting() -> None:
    long = {file.name: n for _, _, file in _modules() if (n := len(file.read_text().splitlines())) > 400}
    assert not long
