"""A comparison as a YAML file describes it: systems, tasks, seeds, tables. Typed; unknown keys are errors."""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ..errors import InputError
from ..options import check_options, convert, suggestion

SUITES = Path(__file__).parent / "suites"
METRICS = {
    "ner": ("entity_f1", "token_macro_f1"),
    "sentiment": ("accuracy",),
    "mlm": ("loss",),
    "speed": ("gain.parameters", "gain.sentences_per_second"),
}
# All that a result holds of the built-in kinds; `per_type.NAME.f1` of ner too.
_KNOWN = {
    "ner": (*METRICS["ner"], "entity_f1_strict", "precision", "recall"),
    "sentiment": (*METRICS["sentiment"], "macro_f1"),
    "mlm": (*METRICS["mlm"], "perplexity"),
    "speed": tuple(
        f"{part}.{name}"
        for part in ("gain", "student", "teacher")
        for name in ("parameters", "sentences_per_second", "latency_ms", "weight_bytes")
    ),
}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class System:
    """A row of the tables: one training run for each seed and domain, or a model that is judged only.

    Attributes:
        name: key in the file; the folder of its runs.
        train: options of edad_fast.train, over those of the suite. None: nothing is trained.
        model: what is judged. With `train`: student or teacher; else a folder, such as `{NAME}/teacher`.
        label: what tables show. paper: row of the paper's figures.
        evaluate: options for tasks of a kind, over the task's own: {ner: {untrained: true}}.
        tasks: names of the tasks it is judged on; default all.
        once: judge one model with as many fine-tuning seeds as the suite has seeds. Default: where `model`
            names no run.
        stages: stages whose device hours count; default all.
    """

    name: str
    train: dict[str, Any] | None = None
    model: str = "student"
    label: str = ""
    paper: str | None = None
    evaluate: dict[str, Any] = field(default_factory=dict)
    tasks: list[str] | None = None
    once: bool | None = None
    stages: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """What models are judged on: a task of edad_fast.evaluate (`kind`), its flags, and its scores."""

    name: str
    kind: str
    options: dict[str, Any]
    metrics: list[str]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows and columns of one table.

    Attributes:
        systems, tasks: names, in order; default all.
        reference: the system that the others are tested against; default the first.
        baseline: the system that device hours are divided by; default the reference.
    """

    name: str
    title: str = ""
    systems: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    reference: str = ""
    baseline: str = ""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A whole comparison.

    Attributes:
        name: of its file. output_dir: where runs, results and tables go.
        seeds: of the training runs.
        variables: values for `{name}` in all texts; None: to be given as a flag.
        domains: further values for `{name}`, by the name of the domain (pair); every system runs in each.
        train: options that all trained systems share.
        vocabulary: options of edad_fast.vocab, run once; its vocab.txt is the --vocab of all systems that say
            nothing about their vocabulary.
        keep_checkpoints: keep checkpoints and token shards of finished runs too.
    """

    name: str
    output_dir: Path
    seeds: list[int]
    variables: dict[str, Any]
    domains: dict[str, dict[str, Any]]
    train: dict[str, Any]
    vocabulary: dict[str, Any] | None
    systems: dict[str, System]
    tasks: dict[str, Task]
    tables: list[Table]
    keep_checkpoints: bool = False


_KEYS = {
    **{"output_dir": str, "seeds": list[int], "keep_checkpoints": bool},
    **dict.fromkeys(("variables", "domains", "train", "vocabulary", "systems", "tasks", "tables"), dict),
}


def built_in_suites() -> list[str]:
    """Names for `--paper_table`."""
    return sorted(file.stem.removeprefix("table_") for file in SUITES.glob("*.yaml"))


def built_in(name: str) -> Path:
    """The file of a built-in suite.

    Raises:
        InputError: no such suite.
    """
    for file in (SUITES / f"table_{name}.yaml", SUITES / f"{name}.yaml"):
        if file.is_file():
            return file
    names = built_in_suites()
    raise InputError(f"--paper_table {name}: not one of {', '.join(names)}{suggestion(name, names)}")


def load_suite(path: str | Path) -> Suite:
    """Read a suite file.

    Raises:
        InputError: it cannot be read, or has an unknown key (the near one is suggested), a wrong type, or a
            name that it does not define.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check --config") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from error
    where = str(path)
    _mapping(values, where)
    for key in values:
        if key not in _KEYS:
            raise InputError(f"{where}: unknown key {key!r}{suggestion(str(key), list(_KEYS))}")
    for key in ("variables", "domains", "train", "systems", "tasks", "tables"):
        values[key] = _mapping(values.get(key) or {}, f"{where}: {key}")
    seeds = values.get("seeds", 3)
    systems = {name: _system(name, value, where) for name, value in values["systems"].items()}
    tasks = {name: _task(name, value, where) for name, value in values["tasks"].items()}
    suite = Suite(
        name=path.stem,
        output_dir=Path(os.path.normpath(str(values.get("output_dir", f"runs/compare/{path.stem}")))),
        seeds=seed_list(seeds, where),
        variables={"suite_dir": str(path.parent), **values["variables"]},
        domains={n: _mapping(v, f"{where}: domain {n}") for n, v in values["domains"].items()},
        train=check_options(values["train"], f"{where}: train"),
        vocabulary=values.get("vocabulary") and _mapping(values["vocabulary"], f"{where}: vocabulary"),
        systems=systems,
        tasks=tasks,
        tables=[_table(name, value, where) for name, value in values["tables"].items()],
        keep_checkpoints=convert("keep_checkpoints", values.get("keep_checkpoints", False), bool, where),
    )
    if not suite.tables:
        suite = replace(suite, tables=[Table(name="table")])
    _check_names(suite, where)
    return replace(suite, tables=[_complete(table, suite) for table in suite.tables])


def seed_list(value: Any, where: str) -> list[int]:
    """Seeds from a number of seeds (0, 1, ...) or a list of them.

    Raises:
        InputError: none, a negative one, or one twice.
    """
    seeds: list[int] = convert("seeds", value, list[int], where)
    if not isinstance(value, list):
        seeds = list(range(seeds[0]))
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise InputError(f"{where}: seeds is {value!r}; give a number of seeds, or a list without doubles")
    return seeds


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected lines of 'name: value'")
    return value


def _typed(cls: type[_T], name: Any, value: Any, where: str) -> _T:
    """A dataclass from a mapping of its fields."""
    if not _NAME.fullmatch(str(name)):
        raise InputError(f"{where}: {name!r} is no name; use letters, digits, '_', '-' and '.'")
    where = f"{where}: {name}"
    hints = typing.get_type_hints(cls)
    known = [f.name for f in fields(typing.cast(Any, cls)) if f.name != "name"]
    found = {}
    for key, item in _mapping(value or {}, where).items():
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}{suggestion(str(key), known)}")
        is_mapping = "dict" in str(hints[key])
        found[key] = _mapping(item or {}, f"{where}: {key}") if is_mapping else None
        if not is_mapping:
            found[key] = convert(key, item, hints[key], where)
    return typing.cast(Any, cls)(name=str(name), **found)


def _system(name: Any, value: Any, where: str) -> System:
    system = _typed(System, name, value, where)
    where = f"{where}: {name}"
    if system.train is None and system.model == "student":
        raise InputError(f"{where}: give train (options of edad_fast.train), or model (a folder to judge)")
    if system.train is not None:
        if system.model not in ("student", "teacher"):
            raise InputError(f"{where}: model is {system.model!r}; of a trained system, student or teacher")
        for option in ("output_dir", "seed", "resume", "overwrite", "dry_run"):
            if option in system.train:
                raise InputError(f"{where}: {option} is set by the comparison; leave it out of train")
        system = replace(system, train=check_options(system.train, where))
    return replace(system, label=system.label or str(name))


def _task(name: Any, value: Any, where: str) -> Task:
    values = dict(_mapping(value, f"{where}: {name}"))
    where = f"{where}: {name}"
    kind = str(values.pop("kind", ""))
    if not kind:
        raise InputError(f"{where}: give kind: the task of edad_fast.evaluate ({', '.join(METRICS)})")
    metrics = values.pop("metrics", METRICS.get(kind))
    if not metrics:
        near = suggestion(kind, list(METRICS))
        if near:
            raise InputError(f"{where}: kind: unknown task {kind!r}{near}")
        raise InputError(f"{where}: give metrics: the scores to show, as {kind}.json names them")
    metrics = convert("metrics", list(metrics) if isinstance(metrics, tuple) else metrics, list[str], where)
    for metric in metrics:
        if (
            kind in _KNOWN
            and metric not in _KNOWN[kind]
            and not (kind == "ner" and metric[:9] == "per_type.")
        ):
            raise InputError(
                f"{where}: unknown metric {metric!r} of {kind}; known: {', '.join(_KNOWN[kind])}"
                f"{suggestion(metric, _KNOWN[kind])}"
            )
    for option in ("model", "output_dir", "overwrite"):
        if option in values:
            raise InputError(f"{where}: {option} is set by the comparison; leave it out")
    if not _NAME.fullmatch(str(name)):
        raise InputError(f"{where}: {name!r} is no name; use letters, digits, '_', '-' and '.'")
    return Task(name=str(name), kind=kind, options=values, metrics=metrics)


def _table(name: Any, value: Any, where: str) -> Table:
    return _typed(Table, name, value, where)


def _complete(table: Table, suite: Suite) -> Table:
    systems = table.systems or list(suite.systems)
    reference = table.reference or systems[0]
    return replace(
        table,
        title=table.title or table.name,
        systems=systems,
        tasks=table.tasks or list(suite.tasks),
        reference=reference,
        baseline=table.baseline or reference,
    )


def _check_names(suite: Suite, where: str) -> None:
    if not suite.systems:
        raise InputError(f"{where}: no systems; name at least one under systems:")
    if clash := set(suite.systems) & (set(suite.variables) | {"seed", "vocabulary"}):
        raise InputError(f"{where}: {clash.pop()!r} names a system and a variable; rename one")

    def known(names: Sequence[str], among: Mapping[str, Any], what: str) -> None:
        for name in names:
            if name not in among:
                raise InputError(f"{where}: {what} {name!r} is not defined{suggestion(name, list(among))}")

    for table in suite.tables:
        known([*table.systems, *filter(None, (table.reference, table.baseline))], suite.systems, "system")
        known(table.tasks, suite.tasks, "task")
        if table.reference and table.systems and table.reference not in table.systems:
            raise InputError(f"{where}: {table.name}: reference {table.reference!r} is not among its systems")
    for system in suite.systems.values():
        known(system.tasks or [], suite.tasks, "task")


def with_flags(
    suite: Suite,
    *,
    output_dir: str | None = None,
    seeds: list[int] | None = None,
    train: Mapping[str, Any] | None = None,
    variables: Mapping[str, str | None] | None = None,
    ner: Sequence[str] = (),
) -> Suite:
    """The suite with what the command line gives in place of the file's values.

    Args:
        train: options of all trained systems.
        variables: values for `{name}`; None: not given.
        ner: folders that take the place of the suite's NER tasks, with the options of the first of them.

    Raises:
        InputError: the suite has no NER task to put the folders in place of.
    """
    if output_dir:
        suite = replace(suite, output_dir=Path(os.path.normpath(output_dir)))
    if seeds:
        suite = replace(suite, seeds=seed_list(seeds, "--seeds"))
    given = {name: value for name, value in (variables or {}).items() if value is not None}
    suite = replace(suite, train={**suite.train, **(train or {})}, variables={**suite.variables, **given})
    if not ner:
        return suite
    old = [task for task in suite.tasks.values() if task.kind == "ner"]
    if not old:
        raise InputError(f"--ner: the suite {suite.name} has no task of kind ner")
    new = {}
    for folder in ner:
        name = Path(folder).resolve().name
        new[name] = replace(old[0], name=name, options={**old[0].options, "data": folder})
    if len(new) < len(ner):
        raise InputError("--ner: two folders of the same name; rename one")
    gone = {task.name for task in old}

    def renamed(names: Sequence[str]) -> list[str]:
        kept = [name for name in names if name not in gone]
        return [*new, *kept] if len(kept) < len(names) else kept

    return replace(
        suite,
        tasks={**new, **{name: task for name, task in suite.tasks.items() if name not in gone}},
        tables=[replace(table, tasks=renamed(table.tasks)) for table in suite.tables],
        systems={
            name: replace(system, tasks=renamed(system.tasks)) if system.tasks else system
            for name, system in suite.systems.items()
        },
    )
