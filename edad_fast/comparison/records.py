"""What is known of each job: whether it is done, from what, and what it cost."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError
from ..files import atomic_write, write_json
from .plan import Job, Plan, is_once

_SEED_BY_SEED = ("ner", "sentiment")  # go on after their finished seeds, as trainings do from checkpoints
State = Literal["done", "started", "changed", "new"]


class Records:
    """One small JSON file a job in records/ of the suite's output_dir, written when it begins and ends."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._folder = plan, plan.suite.output_dir / "records"
        self._known: dict[str, dict[str, Any]] = {}  # nobody else writes them, see runner.locked

    def _file(self, job: str) -> Path:
        return self._folder / f"{job}.json"

    def read(self, job: str) -> dict[str, Any]:
        """The record of a job, {} without one.

        Raises:
            InputError: the file is no record.
        """
        if job not in self._known:
            self._known[job] = self._load(self._file(job))
        return self._known[job]

    def _load(self, file: Path) -> dict[str, Any]:
        if not file.is_file():
            return {}
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            return {**record, "parts": dict(record["parts"]), "seconds": float(record["seconds"])}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file}: no record of a comparison ({error}); remove it") from error

    def _write(self, job: Job, record: dict[str, Any]) -> None:
        write_json(self._file(job.id), record)
        self._known[job.id] = record

    def state(self, job: Job) -> State:
        """done: ended well with the same parts and the same runs below it; changed: made from other parts."""
        record = self.read(job.id)
        if not record:
            return "new"
        more_seeds = self._more_seeds(job, record["parts"])
        if more_seeds is None:
            return "changed"
        below = {need: self.read(need).get("finished") for need in job.needs}
        if record.get("finished") is None:
            return "started"
        if None in below.values() or record.get("needs") != below or not job.result.is_file():
            return "new"  # what it was made from was made again, or its result was removed
        return "started" if more_seeds > 0 else "done"

    def _more_seeds(self, job: Job, old: dict[str, Any]) -> int | None:
        """How many fine-tuning seeds `job` has more than `old` parts; None if they differ in other things.

        For one model fewer are no difference: its seeds are taken one by one.
        """
        if old == job.parts:
            return 0
        before, after = dict(old.get("options", {})), dict(job.parts["options"])
        more = int(after.pop("seeds", 3)) - int(before.pop("seeds", 3))
        alike = {**old, "options": before} == {**job.parts, "options": after}
        if job.kind not in _SEED_BY_SEED or not alike:
            return None
        suite = self._plan.suite
        return more if more > 0 or is_once(suite.systems[job.system], suite) else None

    def differences(self, job: Job) -> list[str]:
        """In words, which options and files differ between the record's parts and the job's."""
        found = []
        old, new = self.read(job.id)["parts"], job.parts
        for part in ("options", "inputs"):  # the other parts follow from these, and from jobs below
            before, after = old.get(part, {}), new.get(part, {})
            for name in sorted(set(before) | set(after)):
                if before.get(name) == after.get(name):
                    continue
                if part == "options":
                    found.append(f"{name} was {before.get(name)!r}, is {after.get(name)!r}")
                else:
                    found.append(f"another {name}")
        return found

    def begin(self, job: Job) -> None:
        """Note that `job` is being worked on; what it cannot go on from is removed from its folder.

        A folder without a record is not this comparison's, and is left as it is.
        """
        record, state = self.read(job.id), self.state(job)
        goes_on = state == "started" and job.kind in ("train", *_SEED_BY_SEED)
        if record and not goes_on:
            shutil.rmtree(job.folder, ignore_errors=True)
        if job.config:
            with atomic_write(job.command[-1]) as temporary:
                temporary.write_text(job.config, encoding="utf-8")
        seconds = record.get("seconds", 0.0) if goes_on else 0.0
        self._write(job, {"parts": job.parts, "seconds": seconds, "finished": None})

    def add_time(self, job: Job, seconds: float) -> None:
        """Add the time of an attempt that did not end."""
        record = self.read(job.id)
        self._write(job, {**record, "seconds": record["seconds"] + seconds})

    def finish(self, job: Job, seconds: float) -> None:
        """Note that `job` is done, after a last attempt of `seconds`."""
        record = self.read(job.id)
        below = {need: self.read(need)["finished"] for need in job.needs}
        mark = uuid.uuid4().hex[:16]
        seconds += record["seconds"]
        self._write(job, {**record, "seconds": seconds, "finished": mark, "needs": below})

    def estimate(self, job: Job) -> float | None:
        """Seconds that `job` will take: the mean of finished ones of its system and kind, else its kind."""
        alike: list[float] = []
        same: list[float] = []
        for other in self._plan.jobs.values():
            if other.kind == job.kind and (record := self.read(other.id)).get("finished"):
                alike.append(record["seconds"])
                if other.system == job.system and other.id.split("/")[-1] == job.id.split("/")[-1]:
                    same.append(record["seconds"])
        values = same or alike
        spent = self.read(job.id).get("seconds", 0.0) if job.kind == "train" else 0.0
        return max(1.0, sum(values) / len(values) - spent) if values else None
