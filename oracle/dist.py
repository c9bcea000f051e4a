"""More than one process: torchrun starts them, DDP adds up their gradients, FSDP2 shares out weights and moments.

    torchrun --nproc_per_node=2 train.py config/rizospastis.py

Every rank takes its rows of the same global batch, so the number of ranks changes nothing but the speed. Ranks
agree on the host (gloo) about what no rank may decide alone: to stop, to save, which micro-batch fits.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
import torch.distributed as dist

from oracle.cli import UsageError

if TYPE_CHECKING:  # slow to import, and most runs have one rank
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class World:
    """This process among those of the run; alone unless torchrun says otherwise."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine: the number of its GPU

    @classmethod
    def from_environment(cls) -> "World":
        if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
            return cls()
        return cls(*(int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))

    @property
    def main(self) -> bool:
        """True on the one rank that writes and speaks."""
        return self.rank == 0

    def largest(self, value: float) -> float:
        """The largest of all ranks' values."""
        return self._on_host(value, dist.ReduceOp.MAX)

    def total(self, value: float) -> float:
        """The sum of all ranks' values, in float64."""
        return self._on_host(value, dist.ReduceOp.SUM)

    def _on_host(self, value: float, operation: dist.ReduceOp.RedOpType) -> float:
        if self.size == 1:
            return value
        agreed = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(agreed, operation)
        return agreed.item()

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean of all ranks' tensors, on their device; on a GPU the host does not wait for it."""
        if self.size > 1:
            dist.all_reduce(tensor)
            tensor /= self.size
        return tensor

    def gather(self, tensors: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """Small host tensors of every rank, by rank."""
        gathered = [tensors] * self.size
        if self.size > 1:
            dist.all_gather_object(gathered, tensors)
        return gathered


ALONE = World()


@contextmanager
def joined(world: World, device: torch.device) -> Iterator[None]:
    """Within, the ranks can talk to each other, and only rank 0 speaks on the console."""
    if world.size == 1:
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    console = sys.stdout
    with Path(os.devnull).open("w", encoding="utf-8") as silence:
        sys.stdout = console if world.main else silence
        try:
            yield
        finally:
            sys.stdout = console
    dist.destroy_process_group()  # not after an error: other ranks may be waiting, and torchrun ends them


def leave(world: World) -> None:
    """End this process now, successfully, if it is one of several: everything is written and said.

    gloo's threads sometimes abort a process that takes itself apart in the ordinary way (torch 2.13: "terminate called
    without an active exception"), and torchrun would call a finished run failed.
    """
    if world.size > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def shard(model: torch.nn.Module, blocks: torch.nn.ModuleList, world: World, device: torch.device) -> None:
    """FSDP2 in place: every rank keeps its part of each block's weights, and so of gradients and moments."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if world.size == 1:
        raise UsageError("fsdp=True shares a model out among ranks, and there is one: start with torchrun, or drop it")
    mesh = init_device_mesh(device.type, (world.size,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def parallel(forward: torch.nn.Module, world: World, device: torch.device, fsdp: bool) -> torch.nn.Module:
    """`forward` such that its backward pass averages gradients over the ranks."""
    if world.size == 1 or fsdp:  # what is sharded does so by itself
        return forward
    devices = [device] if device.type == "cuda" else None
    return torch.nn.parallel.DistributedDataParallel(forward, device_ids=devices, gradient_as_bucket_view=True)


def gradient_sync(forward: torch.nn.Module, model: torch.nn.Module, last: bool) -> AbstractContextManager:
    """The context of one micro-batch: gradients cross the network only after the last one of a step."""
    if isinstance(forward, torch.nn.parallel.DistributedDataParallel):
        return nullcontext() if last else cast("AbstractContextManager", forward.no_sync())
    if hasattr(model, "set_requires_gradient_sync"):
        cast("FSDPModule", model).set_requires_gradient_sync(last)
    return nullcontext()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A sharded tensor put together (all ranks must ask); any other as it is."""
    gather = getattr(tensor, "full_tensor", None)
    return cast("torch.Tensor", gather()) if gather else tensor


def placed_like(tensor: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """A whole tensor on the device of `reference`, sharded if that is."""
    if not hasattr(reference, "full_tensor"):
        return tensor.to(reference.device)
    from torch.distributed.tensor import distribute_tensor

    sharded = cast("DTensor", reference)
    return distribute_tensor(tensor.to(reference.device), sharded.device_mesh, sharded.placements)
