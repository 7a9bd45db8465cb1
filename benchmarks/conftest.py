"""Contests between EDAD-fast and its peers, and the one table that they end in."""

from __future__ import annotations

import gc
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import peers
import pytest
from data import LARGE, SMALL, Text, general_vocabulary, load

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"


@dataclass(frozen=True)
class Timing:
    """Wall and CPU seconds of every round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def measure(self, call: Callable[[], object]) -> object:
        cpu, wall = time.process_time(), time.perf_counter()
        result = call()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)
        return result

    @property
    def seconds(self) -> float:
        return median(self.wall)


@dataclass
class Row:
    """A line of the table. `value` is in the unit of its floor; None: there is no figure, `note` says why."""

    key: str
    text: str
    peer: str
    value: float | None = None
    by_cpu: float | None = None
    ours: str = ""
    theirs: str = ""
    note: str = ""
    judged: bool = True
    must: float | None = None
    aim: float | None = None
    gate: float | None = None
    unit: str = "x"
    at_most: bool = False
    measure: str = ""

    def reaches(self, bound: float) -> bool:
        assert self.value is not None
        return self.value <= bound if self.at_most else self.value >= bound

    @property
    def fails(self) -> bool:
        """Whether the benchmark fails: below its gate, or, without one, below `must`."""
        bound = self.must if self.gate is None else self.gate
        return self.judged and self.value is not None and bound is not None and not self.reaches(bound)

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "absent"
        if self.must is None:
            return ""
        if not self.judged:
            return "not judged"
        if not self.reaches(self.must):
            return "MISSED"
        return "aim" if self.aim is None or self.reaches(self.aim) else "must"


class Table:
    """Collects rows, judges them by floors.toml, prints them and saves them."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.floors: dict[str, dict[str, Any]] = tomllib.loads(
            (HERE / "floors.toml").read_text(encoding="utf-8")
        )
        self.timings: dict[str, dict[str, list[float]]] = {}

    def add(self, row: Row) -> Row:
        """Add a row; its floor is the one of its key.

        Raises:
            KeyError: floors.toml does not know the key.
        """
        for name, value in self.floors[row.key].items():
            setattr(row, name, value)
        self.rows.append(row)
        return row

    def time(self, name: str, timing: Timing) -> None:
        self.timings[name] = asdict(timing)

    def lines(self) -> Iterator[str]:
        head = ("measure", "text", "peer", "ours", "theirs", "value", "by CPU", "must", "aim", "verdict")
        cells = [head]
        for row in self.rows:
            cells.append(
                (
                    *(row.measure, row.text, row.peer, row.ours, row.theirs or "-"),
                    *(_number(value, row.unit) for value in (row.value, row.by_cpu)),
                    *(
                        _number(value, row.unit, "<= " if row.at_most else "")
                        for value in (row.must, row.aim)
                    ),
                    f"{row.verdict} {f'({row.note})' if row.note else ''}".strip(),
                )
            )
        widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
        for line in cells:
            yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()

    def save(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        content = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "processor": _processor(),
            "peers": {name: _version(name) for name in sorted({p for p, _ in _every_peer()})},
            "rows": [asdict(row) | {"verdict": row.verdict} for row in self.rows],
            "seconds": self.timings,
        }
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _every_peer() -> list[tuple[str, object]]:
    return [*peers.ENCODERS.values(), *peers.TRAINERS.values()]


def _version(package: str) -> str:
    try:
        return peers.version_of(package)
    except peers.AbsentError:
        return "absent"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _number(value: float | None, unit: str, before: str = "") -> str:
    return "-" if value is None else f"{before}{value:.3g} {unit}" if unit != "x" else f"{before}{value:.3g}x"


@dataclass
class Contest:
    """Runs contenders in turn, round by round, so that a slow spell of the machine meets all of them."""

    table: Table
    benchmark: Any
    ours: Timing = field(default_factory=Timing)

    def run(
        self,
        name: str,
        ours: Callable[[], object],
        rivals: Mapping[str, Callable[[], object]],
        rounds: int = 5,
        calls: int = 1,
    ) -> dict[str, Timing]:
        """Measure `ours` (also with pytest-benchmark) and every rival `rounds` times, `calls` calls each.

        Short contenders want several calls: the first one finds the caches as the last contender left them.
        """
        timings = {rival: Timing() for rival in rivals}

        def measure(timing: Timing, call: Callable[[], object]) -> None:
            timing.measure(lambda: [call() for _ in range(calls)])

        def before_each_round() -> None:
            for rival, call in rivals.items():
                gc.collect()
                measure(timings[rival], call)
            gc.collect()

        self.benchmark.pedantic(lambda: measure(self.ours, ours), setup=before_each_round, rounds=rounds)
        for timing in (self.ours, *timings.values()):
            timing.wall[:] = [seconds / calls for seconds in timing.wall]
            timing.cpu[:] = [seconds / calls for seconds in timing.cpu]
        self.table.time(f"{name}: ours", self.ours)
        for rival, timing in timings.items():
            self.table.time(f"{name}: {rival}", timing)
            self.benchmark.extra_info[rival] = timing.seconds
        return timings


def ratio(theirs: Timing, ours: Timing) -> tuple[float, float]:
    """Median over the rounds of how many times as long they took: by wall clock and by CPU time."""
    return (
        median(a / b for a, b in zip(theirs.wall, ours.wall, strict=True)),
        median(a / b for a, b in zip(theirs.cpu, ours.cpu, strict=True)),
    )


def judge(*rows: Row) -> None:
    """Fail if a row is below its gate; after all rows are in the table."""
    texts = [
        f"{row.measure} ({row.text}) vs {row.peer}: {row.value:.4g} {row.unit}, must {row.must}, "
        f"gate {row.gate}"
        for row in rows
        if row.fails
    ]
    if texts:
        pytest.fail("; ".join(texts), pytrace=False)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole-corpus", action="store_true", help="also learn from all of shared/data/corpus")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("verbose") < 1 and hasattr(config.option, "benchmark_quiet"):
        config.option.benchmark_quiet = True  # its table knows our side only


_TABLE = pytest.StashKey[Table]()


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> Table:
    return request.config.stash.setdefault(_TABLE, Table())


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    table = config.stash.get(_TABLE, None)
    if table and table.rows:
        terminalreporter.section("EDAD-fast and its peers, 1 thread unless said")
        for line in table.lines():
            terminalreporter.write_line(line)
        path = OUT / "table.json"
        table.save(path)
        terminalreporter.write_line(f"saved: {path}")


@pytest.fixture
def contest(table: Table, benchmark: Any) -> Contest:
    return Contest(table, benchmark)


@pytest.fixture
def one_core() -> Iterator[None]:
    """Libraries that ask the system for its cores, rather than the environment, get one."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts")


@pytest.fixture(scope="session")
def small(folder: Path) -> Text:
    return load(SMALL, folder)


@pytest.fixture(scope="session")
def large(folder: Path) -> Text:
    return load(LARGE, folder)


@pytest.fixture(scope="session")
def vocabulary(folder: Path) -> peers.Vocabulary:
    return peers.Vocabulary(general_vocabulary(folder), folder)
