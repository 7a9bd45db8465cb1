"""The processes of a run: how they start, what they tell each other, and how they share one objective."""

from __future__ import annotations

import copy
import gc
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import InputError
from .checkpoints import module_tensors
from .signals import Interrupted
from .stage import LossTerms, Stage

T = TypeVar("T")
Strategy = Literal["ddp", "fsdp"]

_ENVIRONMENT = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_LOST = re.compile(
    "gloo|pair closure|connection (closed|reset|refused)|broken pipe|timed? ?out", re.IGNORECASE
)
# Process 0 may tokenise a large corpus while the others wait; if it dies they notice at once.
_PATIENCE = timedelta(days=30)


class LostProcess(InputError):
    """A process of the run has died or hangs; the others cannot go on without it."""


class ToldByMain(InputError):
    """An error of all processes, or of process 0, of which process 0 tells the user."""


def is_main_process() -> bool:
    """Whether this is the process that speaks to the user."""
    return world_size() == 1 or os.environ.get("RANK", "0") == "0"


@contextmanager
def told_by_main() -> Iterator[None]:
    """An `InputError` inside is the same in all processes: only process 0 is to print it."""
    try:
        yield
    except InputError as error:
        if is_main_process():
            raise
        raise ToldByMain(str(error)) from error


def world_size() -> int:
    """How many processes the launcher (torchrun and the like) started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_device(device: torch.device) -> torch.device:
    """This process's own device of the kind of `device`, made the current one.

    Raises:
        InputError: the machine has fewer CUDA devices than processes.
    """
    if device.type != "cuda" or world_size() == 1:
        return device
    own, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if own >= count:
        raise InputError(
            f"process {own} of this machine has no CUDA device of its own: {count} are visible. Start as "
            "many processes as devices, and let each process see all devices of its machine."
        )
    torch.cuda.set_device(own)
    return torch.device("cuda", own)


@dataclass(frozen=True)
class World:
    """The processes that train together. One alone sends nothing.

    Every method but `main` must be called by all processes, in the same order.

    Args:
        rank: number of this process. size: how many there are.
        patient: a gloo group to wait in while process 0 works alone.
    """

    rank: int = 0
    size: int = 1
    patient: Any = None

    @property
    def main(self) -> bool:
        """Whether this is process 0, which writes the files and speaks to the user."""
        return self.rank == 0

    def on_main(self, work: Callable[[], T]) -> T | None:
        """Run `work` in process 0 while the others wait, however long; its result there, None elsewhere.

        Raises:
            ToldByMain: in the others, when `work` failed.
        """
        if self.size == 1:
            return work()
        if not self.main:
            problem = self.share(None)
            if problem is not None:
                raise ToldByMain(problem)
            return None
        try:
            result = work()
        except BaseException as error:
            with suppress(RuntimeError):  # the others may be gone
                self.share(str(error) or type(error).__name__)
            raise
        self.share(None)
        return result

    def share(self, value: T) -> T:
        """The `value` of process 0 (small, picklable), in all processes."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.patient)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """The values (small, picklable) of all processes, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the processes; the host does not wait for a CUDA device."""
        if self.size == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values / self.size

    def largest(self, values: Tensor) -> Tensor:
        """Element-wise maximum over the processes; the host does not wait for a CUDA device."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values


class StopVote:
    """Which signal, if any, reached one of the processes: all learn it after the same step.

    What is asked after one step is answered after the next, so that no process waits for the slowest one.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._asked = torch.zeros((), dtype=torch.int64)
        self._work: Any = None

    def __call__(self, signum: int | None, *, wait: bool = False) -> int | None:
        """The signal agreed on; `signum` is what this process got. `wait`: answer for now, not the last."""
        if self._world.size == 1:
            return signum
        answer = self._answer()
        self._asked = torch.tensor(signum or 0)
        self._work = dist.all_reduce(self._asked, dist.ReduceOp.MAX, async_op=True)
        if wait:
            answer = max(answer, self._answer())
        return answer or None

    def _answer(self) -> int:
        if self._work is not None:
            self._work.wait()
            self._work = None
        return int(self._asked)


@contextmanager
def join(device: torch.device, timeout: float) -> Iterator[World]:
    """Meet the other processes that the launcher started; leave them at the end.

    Args:
        device: of this process, see `local_device`. NCCL carries what is on CUDA devices, gloo the rest.
        timeout: seconds to wait for an answer of the others before they count as lost.

    Raises:
        InputError: the launcher's environment is incomplete. LostProcess: a process died or hangs.
    """
    size = world_size()
    if size == 1:
        yield World()
        return
    missing = [name for name in _ENVIRONMENT if name not in os.environ]
    if missing:
        raise InputError(
            f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set; start the processes with torchrun "
            "(docs/many_devices.md), or unset WORLD_SIZE"
        )
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
        patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
        yield World(dist.get_rank(), size, patient)
    except RuntimeError as error:
        # gloo's errors have no type of their own.
        if not isinstance(error, dist.DistError) and not _LOST.search(str(error)):
            raise
        reason = str(error).splitlines()[0].split(". ")[0]
        raise LostProcess(
            f"process {os.environ['RANK']} of {size}: another process has ended or does not answer "
            f"({reason}). Its own message is above, or in the log of its machine. Give "
            "the same command with --resume to go on from the last checkpoint; if all processes were only "
            "slow, raise --process_timeout."
        ) from error
    except (InputError, Interrupted):
        _leave()
        raise
    # Not after other errors: leaving may wait for operations that will never end.
    _leave()


def _leave() -> None:
    # A DDP module that outlives its group ends it while holding the interpreter's lock, for which a thread of
    # the group may wait.
    gc.collect()
    dist.destroy_process_group()


class _Opened(nn.Module):
    """An objective with an output of plain containers, into which DDP and FSDP can look."""

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, batch: Any, alpha: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Total and terms of the loss."""
        loss = self.objective(batch, alpha)
        return loss.total, loss.terms


class Replica:
    """This process's copy (DDP) or part (FSDP) of a stage's objective. Gradients are means over processes.

    With DDP, and in one process, it is the objective itself. With FSDP it is a copy of which every process
    holds a part: the stage's `layers` one by one, all else as one; `finish` brings the weights back.

    DDP looks for unused parameters in every step: terms of weight 0 are not computed, so which parameters a
    step uses changes with alpha. As in one process, those that no process used get no gradient.

    Args:
        stage: its objective is on the device (DDP), or anywhere (FSDP).
    """

    def __init__(self, stage: Stage, world: World, strategy: Strategy, device: torch.device) -> None:
        self._stage = stage
        self.module = stage.objective
        self._run: nn.Module | None = _Opened(self.module)
        if world.size > 1 and strategy == "ddp":
            with warnings.catch_warnings():
                # The name that is to replace broadcast_buffers is younger than the oldest torch supported.
                warnings.simplefilter("ignore", FutureWarning)
                self._run = DistributedDataParallel(
                    self._run,
                    broadcast_buffers=False,
                    find_unused_parameters=True,
                    gradient_as_bucket_view=True,
                )
        elif world.size > 1:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard  # takes seconds to import

            # Layers are copied along with the objective, so that the copies are the objective's own.
            self._run, layers = copy.deepcopy((self._run, list(stage.layers)))
            self.module = self._run.get_submodule("objective")
            mesh = init_device_mesh(device.type, (world.size,))
            for layer in [*layers, self._run]:
                fully_shard(layer, mesh=mesh)

    def __call__(self, batch: Any, alpha: float) -> LossTerms:
        """The loss of `batch` in this process."""
        assert self._run is not None, "closed"
        return LossTerms(*self._run(batch, alpha))

    def synchronised(self, now: bool) -> AbstractContextManager[None]:
        """Inside, backward passes average the gradients over the processes (`now`), or only add them up."""
        if isinstance(self._run, DistributedDataParallel):
            return nullcontext() if now else cast(AbstractContextManager[None], self._run.no_sync())
        if self.module is not self._stage.objective:
            cast(Any, self._run).set_requires_gradient_sync(now)
        return nullcontext()

    def close(self) -> None:
        """Use the replica no more; errors that hold on to it must not keep DDP alive."""
        self._run = None

    @torch.no_grad()
    def finish(self) -> None:
        """Have the trained weights in the stage's objective, in every process."""
        if self.module is not self._stage.objective:
            own = module_tensors(self._stage.objective)
            for name, tensor in module_tensors(self.module).items():
                own[name].copy_(full(tensor))


def full(tensor: Tensor) -> Tensor:
    """A sharded tensor put together, in all processes; others as they are."""
    return cast(Any, tensor).full_tensor() if _is_sharded(tensor) else tensor


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # of a DTensor


def full_tensors(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """`tensors`, the sharded ones put together on the CPU; {} unless `keep`. All processes take part."""
    result = {}
    for name, tensor in tensors.items():
        whole = full(tensor)
        if keep:
            result[name] = whole.cpu() if _is_sharded(tensor) else whole
    return result


def sharded_as(value: Tensor, like: Tensor) -> Tensor:
    """`value`, sharded as `like` is; all processes hold the same value."""
    if not _is_sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    sharded = cast(Any, like)
    return distribute_tensor(value.to(like.device), sharded.device_mesh, sharded.placements)
