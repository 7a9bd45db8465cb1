"""Command line and YAML file -> `TrainConfig`.

A run is configured by a YAML file (`--config run.yaml`), by flags of the same names, or both (flags win).
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from .config import TrainConfig
from .config_checks import validate
from .errors import InputError


def suggestion(key: str, known: Sequence[str]) -> str:
    """Return `; did you mean X?` for the known name nearest to `key`, or an empty string."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _hints() -> dict[str, Any]:
    types_of = typing.get_type_hints(TrainConfig)
    return {option.name: types_of[option.name] for option in dataclasses.fields(TrainConfig)}


def convert(name: str, value: Any, hint: Any, where: str) -> Any:
    """Check `value` (from YAML or a flag) against the type `hint` of option `name`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return convert(name, value, next(a for a in arguments if a is not type(None)), where)
    if origin is Literal:
        if value not in arguments:
            near = suggestion(str(value), [str(a) for a in arguments])
            raise InputError(
                f"{where}: {name} is {value!r}, not one of {', '.join(map(str, arguments))}{near}"
            )
        return value
    if origin is list:
        items = value if isinstance(value, list) else [value]
        return [convert(name, item, arguments[0], where) for item in items]
    if hint is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
    elif hint is str and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    elif hint in (int, float) and not isinstance(value, bool):
        try:
            number = float(str(value).replace("_", ""))
            if hint is float:
                return number
            if number == int(number):
                return int(number)
        except (ValueError, OverflowError):
            pass
    raise InputError(f"{where}: {name} is {value!r}, which is not of type {getattr(hint, '__name__', hint)}")


def load_config_file(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of options.

    Raises:
        InputError: the file is absent, is no mapping, or has an unknown key (the near one is suggested).
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check --config") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected lines of 'option: value'")
    return check_options(values, str(path))


def check_options(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`values` as the types of the training options of these names.

    Raises:
        InputError: unknown option (the near one is suggested) or wrong type; the message begins with `where`.
    """
    hints = _hints()
    for key in values:
        if key not in hints:
            raise InputError(f"{where}: unknown option {key!r}{suggestion(str(key), list(hints))}")
    return {key: convert(key, value, hints[key], where) for key, value in values.items()}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `InputError`."""

    def error(self, message: str) -> typing.NoReturn:
        """Raise instead of exiting, with the nearest flag for an unknown one."""
        if message.startswith("unrecognized arguments: "):
            flag = message.removeprefix("unrecognized arguments: ").split()[0].split("=")[0]
            message = f"unknown option {flag!r}{suggestion(flag, list(self._option_string_actions))}"
        raise InputError(f"{message} (--help lists the options)")


def build_parser() -> argparse.ArgumentParser:
    """The flags of `python -m edad_fast.train`: one for each option, grouped."""
    parser = Parser(
        prog="python -m edad_fast.train",
        description="Adapt a BERT teacher to a domain and distil it into a small student, in one pass. "
        "Without arguments: the demo, on generated text.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of options; flags win over it")
    hints = _hints()
    groups: dict[str, Any] = {}
    for option in dataclasses.fields(TrainConfig):
        title = option.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        factory = option.default_factory
        default = option.default if factory is dataclasses.MISSING else factory()
        shown = "" if default in (None, "", [], False) else f" (default: {default})"
        arguments: dict[str, Any] = {
            "default": argparse.SUPPRESS,
            "help": option.metadata["help"].replace("%", "%%") + shown,
        }
        hint = hints[option.name]
        if hint is bool:
            arguments.update(nargs="?", const=True, metavar="true|false")
        elif typing.get_origin(hint) is list:
            arguments.update(nargs="+", metavar="X")
        elif typing.get_origin(hint) is Literal:
            arguments.update(metavar="|".join(map(str, typing.get_args(hint))))
        else:
            arguments.update(metavar="N" if "int" in str(hint) or "float" in str(hint) else "X")
        groups[title].add_argument(f"--{option.name}", **arguments)
    return parser


def parse_config(arguments: Sequence[str]) -> TrainConfig:
    """Build the configuration from command-line arguments (and the file they name).

    Raises:
        InputError: unknown option (the near one is suggested), wrong type, or values that cannot go together.
    """
    flags = vars(build_parser().parse_args(list(arguments)))
    file = flags.pop("config")
    hints = _hints()
    values = load_config_file(file) if file else {}
    values |= {key: convert(f"--{key}", value, hints[key], "command line") for key, value in flags.items()}
    config = TrainConfig(**values)
    validate(config)
    return config
