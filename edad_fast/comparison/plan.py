"""From a suite to its jobs: every training and every evaluation, in an order in which they can run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from ..config import TrainConfig
from ..config_checks import validate
from ..errors import InputError
from ..options import check_options, suggestion
from .inputs import missing_inputs, refuse, versions
from .suite import Suite, System, Task

_PLACE = re.compile(r"\{([A-Za-z0-9][\w.-]*)\}")
VOCABULARY = "vocabulary"
GENERAL_STAGE = ("distill_then_adapt", "adapt_and_distill")  # methods that may read --general_corpus
# May change without another result; learning rates may change on resume too, but not in a comparison.
_NEUTRAL = TrainConfig.FREE - {"learning_rate", "student_learning_rate", "max_grad_norm"}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One child process.

    Attributes:
        id: unique; its folder inside the suite's output_dir. kind: vocabulary, train, or a task of evaluate.
        command: without --resume. folder: what it fills. result: the file that it ends with.
        needs: ids of the jobs whose output it reads. parts: what decides its result, for reuse.
        config: of a training, as YAML for --config; else empty.
    """

    id: str
    title: str
    kind: str
    command: tuple[str, ...]
    folder: Path
    result: Path
    parts: dict[str, Any]
    needs: tuple[str, ...] = ()
    config: str = ""
    system: str = ""

    @property
    def digest(self) -> str:
        """Hash of `parts`."""
        return hashlib.blake2b(json.dumps(self.parts, sort_keys=True).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Cell:
    """A system with one seed in one domain.

    Attributes:
        model: folder of the judged model. runs: ids of the trainings that it comes from, its own last.
        tasks: id of the job by name of the task.
    """

    system: str
    domain: str
    seed: int
    model: Path
    runs: tuple[str, ...]
    tasks: dict[str, str]


@dataclass
class Plan:
    """Jobs in order, by id, and what they are for; `problems`: what is missing or wrong -> where first."""

    suite: Suite
    jobs: dict[str, Job] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)

    def needed(self, ids: Iterable[str]) -> set[str]:
        """`ids` and all jobs that they build on."""
        found: set[str] = set()
        todo = list(ids)
        while todo:
            if (job := todo.pop()) not in found:
                found.add(job)
                todo += self.jobs[job].needs
        return found

    def of_systems(self, names: Iterable[str], seeds: Iterable[int]) -> set[str]:
        """The jobs of these systems with these seeds, and all that they build on."""
        wanted, among = set(names), set(seeds)
        return self.needed(
            job
            for cell in self.cells
            if cell.system in wanted and cell.seed in among
            for job in (*cell.tasks.values(), *(r for r in cell.runs if self.jobs[r].system == cell.system))
        )


def is_once(system: System, suite: Suite) -> bool:
    """Whether the system is one model, judged with several fine-tuning seeds."""
    if system.once is not None:
        return system.once
    return system.train is None and not set(_PLACE.findall(system.model)) & set(suite.systems)


def build_plan(suite: Suite) -> Plan:
    """The plan of `draft_plan`, without problems.

    Raises:
        InputError: as of `draft_plan`, or a list of all its problems.
    """
    plan = draft_plan(suite)
    refuse(suite.name, plan.problems)
    return plan


def draft_plan(suite: Suite) -> Plan:
    """All jobs of `suite`, those of the first seed first; nothing is started or written.

    Noted in its `problems`: a `{name}` without a value, options of edad_fast.train that are missing or cannot
    go together, and inputs that are not there.

    Raises:
        InputError: an unknown `{name}`, an unknown option, or systems that need each other.
    """
    plan = Plan(suite)
    order = _order(suite)
    if suite.vocabulary is not None:
        _add_vocabulary(plan)
    for number, seed in enumerate(suite.seeds):
        for domain in suite.domains or {"": {}}:
            for name in order:
                if number == 0 or not is_once(suite.systems[name], suite):
                    _add_cell(plan, suite.systems[name], domain, seed)
    return plan


def _order(suite: Suite) -> list[str]:
    graph = {
        name: [place for place in _places([system.train, system.model]) if place in suite.systems]
        for name, system in suite.systems.items()
    }
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise InputError(f"{suite.name}: systems need each other: {' -> '.join(error.args[1])}") from error


def _places(value: Any) -> list[str]:
    return _PLACE.findall(json.dumps(value))


class _Filler:
    """Replaces `{name}` by its value, and notes the trainings that were named."""

    def __init__(self, plan: Plan, domain: str, seed: int) -> None:
        suite = plan.suite
        self._plan, self._domain, self._seed = plan, domain, seed
        self.values = {**suite.variables, **suite.domains.get(domain, {}), "seed": seed}
        self.needs: list[str] = []

    def __call__(self, value: Any, where: str) -> Any:
        if isinstance(value, list):
            return [self(item, where) for item in value]
        if not isinstance(value, str):
            return value
        for _ in range(3):  # a variable may name another one
            filled = _PLACE.sub(lambda match: self._look_up(match[1], where), value)
            if filled == value:
                break
            value = filled
        return os.path.normpath(value) if "/" in value and "://" not in value else value

    def _look_up(self, name: str, where: str) -> str:
        systems = self._plan.suite.systems
        if name in systems:
            job = run_id(name, self._domain, self._seed)
            if job not in self._plan.jobs:
                raise InputError(f"{where}: {{{name}}} is not trained; only trained systems have folders")
            self.needs.append(job)
            return str(self._plan.jobs[job].folder)
        known = [*self.values, *systems]
        if name not in self.values:
            raise InputError(f"{where}: {{{name}}} is not defined{suggestion(name, known)}")
        if self.values[name] is None:
            way = f"--{name}" if name in ("sentiment", "data_root") else f"{name} under variables"
            self._plan.problems.setdefault(f"{{{name}}} has no value; give {way}", where)
            return f"{{{name}}}"
        return str(self.values[name])


def run_id(system: str, domain: str, seed: int) -> str:
    """Id of a training."""
    return "/".join(filter(None, ("runs", system, domain, f"seed-{seed}")))


def _add_vocabulary(plan: Plan) -> None:
    suite = plan.suite
    where = f"{suite.name}: vocabulary"
    fill = _Filler(plan, "", 0)
    shared = {"base": suite.train.get("teacher"), "corpus": suite.train.get("corpus")}
    shared |= {key: suite.train[key] for key in ("text_field", "encoding_errors") if key in suite.train}
    options = {key: fill(value, where) for key, value in {**shared, **(suite.vocabulary or {})}.items()}
    for name, flag in (("base", "teacher"), ("corpus", "corpus")):
        if not options[name]:
            plan.problems.setdefault(f"--{flag} is missing", where)
    _note_missing(plan, options, where)
    folder = suite.output_dir / VOCABULARY
    plan.jobs[VOCABULARY] = Job(
        id=VOCABULARY,
        title="vocabulary",
        kind=VOCABULARY,
        command=(*_module("vocab"), *_flags({**options, "output_dir": str(folder)})),
        folder=folder,
        result=folder / "vocab.txt",
        parts={"options": options, "inputs": versions(options.values(), suite.output_dir)},
    )


def _note_missing(plan: Plan, options: Mapping[str, Any], where: str) -> None:
    for problem in missing_inputs(options, plan.suite.output_dir):
        plan.problems.setdefault(problem, where)


def _add_cell(plan: Plan, system: System, domain: str, seed: int) -> None:
    suite = plan.suite
    where = f"{suite.name}: {system.name}"
    fill = _Filler(plan, domain, seed)
    if system.train is not None:
        job = _training(plan, system, domain, seed, fill, where)
        plan.jobs[job.id] = job
        model, needs = job.folder / system.model, tuple([job.id])
    else:
        model = Path(fill(system.model, where))
        needs = tuple(dict.fromkeys(fill.needs))
        if not needs and not model.is_dir():
            plan.problems.setdefault(f"{model}: no such folder", where)
    below = plan.needed(needs)
    runs = [job for job in plan.jobs if job in below and plan.jobs[job].kind == "train"]
    tasks = {}
    for task in suite.tasks.values():
        if system.tasks is None or task.name in system.tasks:
            job = _evaluation(plan, system, task, domain, seed, model, needs)
            plan.jobs[job.id] = job
            tasks[task.name] = job.id
    plan.cells.append(Cell(system.name, domain, seed, model, tuple(runs), tasks))


def _training(plan: Plan, system: System, domain: str, seed: int, fill: _Filler, where: str) -> Job:
    suite = plan.suite
    own = system.train or {}
    given = {**suite.train, **own}
    if "general_corpus" not in own and given.get("method") not in GENERAL_STAGE:
        given.pop("general_corpus", None)  # of all systems, for those that can read it
    needs = []
    if suite.vocabulary is not None and not any(name.startswith("vocab") for name in given):
        given["vocab"] = str(plan.jobs[VOCABULARY].result)
        needs.append(VOCABULARY)
    given = {name: fill(value, f"{where}: {name}") for name, value in given.items()}
    identity = run_id(system.name, domain, seed)
    folder = suite.output_dir / identity
    config = TrainConfig(
        **check_options({**given, "seed": seed, "output_dir": str(folder)}, where),
    )
    try:
        validate(config)
    except InputError as error:
        plan.problems.setdefault(str(error), where)
    reads_text = "labelled" not in given and "target" not in given
    for option, value in (("teacher", config.teacher), ("corpus", config.corpus or not reads_text)):
        if not value:
            plan.problems.setdefault(f"--{option} is missing", where)
    _note_missing(plan, given, where)
    needs += dict.fromkeys(fill.needs)
    deciding = {name: value for name, value in given.items() if name not in _NEUTRAL}
    return Job(
        id=identity,
        title=", ".join(filter(None, (system.name, domain, f"seed {seed}: train"))),
        kind="train",
        command=(*_module("train"), "--config", str(suite.output_dir / "configs" / f"{identity}.yaml")),
        folder=folder,
        result=folder / "report.json",
        parts={
            "options": deciding,
            "fingerprint": config.fingerprint(),
            "inputs": versions(deciding.values(), suite.output_dir),
            "needs": {need: plan.jobs[need].digest for need in needs},
        },
        needs=tuple(needs),
        config=config.to_yaml(),
        system=system.name,
    )


def _evaluation(
    plan: Plan, system: System, task: Task, domain: str, seed: int, model: Path, needs: tuple[str, ...]
) -> Job:
    suite = plan.suite
    where = f"{suite.name}: {system.name}: {task.name}"
    filler = _Filler(plan, domain, seed)
    options = {**task.options, **(system.evaluate.get(task.kind) or {})}
    options = {name: filler(value, f"{where}: {name}") for name, value in options.items()}
    if "data" in options and not options["data"]:
        plan.problems.setdefault(f"no data; give --{task.kind} DIR, or data in the suite", where)
    _note_missing(plan, options, where)
    once = is_once(system, suite)
    if task.kind == "ner" or (task.kind == "sentiment" and options.get("fine_tune")):
        if once:
            options["seeds"] = len(suite.seeds)
        if seed:  # 0 is the default
            options.setdefault("seed", seed)
    identity = "/".join(
        filter(None, ("evaluation", system.name, domain, "" if once else f"seed-{seed}", task.name))
    )
    folder = suite.output_dir / identity
    needs = tuple(dict.fromkeys([*needs, *filler.needs]))
    who = f"{system.name}, {domain}" if domain else system.name
    return Job(
        id=identity,
        title=f"{who}{'' if once else f', seed {seed}'}: {task.name}",
        kind=task.kind,
        command=(
            *(*_module("evaluate"), task.kind, "--model", str(model), "--output_dir", str(folder)),
            *_flags(options),
        ),
        folder=folder,
        result=folder / f"{task.kind}.json",
        parts={
            "options": {"model": str(model), **options},
            "inputs": versions([str(model), *options.values()], suite.output_dir),
            "needs": {need: plan.jobs[need].digest for need in needs},
        },
        needs=needs,
        system=system.name,
    )


def _module(name: str) -> tuple[str, ...]:
    return sys.executable, "-m", f"edad_fast.{name}"


def _flags(options: Mapping[str, Any]) -> list[str]:
    """Options as flags: true is the flag alone; false and None are left out."""
    flags: list[str] = []
    for name, value in options.items():
        if value is True:
            flags.append(f"--{name}")
        elif value is not None and value is not False:
            flags += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return flags
