"""One training in several processes, each with its slice of every batch, as `torchrun` starts them.

The first process leads: it does everything as if it were alone and tells the others what they need to know. They
take part in the training and write nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from skdcgn_pipeline.runtime.errors import SettingError

# How long processes wait for the leader, which may have a million samples to draw first.
PATIENCE = timedelta(days=30)


def check_equal_parts(batch_size: int, accumulate_steps: int, num_processes: int) -> None:
    """Refuse a batch that does not divide into equal parts of equal slices.

    Raises:
        SettingError: Naming the setting.
    """
    num_parts = num_processes * accumulate_steps
    if batch_size % num_parts:
        expected = f"a multiple of {num_parts}, the number of processes times accumulate_steps"
        raise SettingError("distill.batch_size", expected, batch_size, "Change it or the number of processes.")


class Processes:
    """The processes of a training; this class is a process alone, for which all of it is nothing.

    Attributes:
        rank: Number of this process; 0 leads.
        size: How many there are.
    """

    rank, size = 0, 1

    def part(self, rows: Tensor) -> Tensor:
        """Return this process's slice of the rows [B] of a batch."""
        return rows.chunk(self.size)[self.rank]

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return a module whose backward pass averages gradients over the processes."""
        return network

    def without_averaging(self, wrapped: nn.Module) -> AbstractContextManager:
        """Return the context in which backward passes of a wrapped module keep gradients to themselves."""
        return nullcontext()

    def share_statistics(self, network: nn.Module) -> None:
        """Let batch norms normalise by the moments of the whole batch."""

    def agree(self, wish: bool) -> bool:
        """Tell whether any process wishes something."""
        return wish

    def mean(self, losses: Mapping[str, float]) -> dict[str, float]:
        """Return the means of the processes' losses, which have the same names everywhere."""
        return dict(losses)

    def tell(self, message: Any) -> None:
        """Give a message to the other processes."""

    def hear(self) -> Any:
        """Wait for the leader's next message; None where there is no leader."""
        return None


ALONE = Processes()


class _Group(Processes):
    """Several processes, see `joined_processes`."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        # Wishes and messages go over a group of their own, which does not lose patience.
        self._talk: Any = dist.new_group(backend="gloo", timeout=PATIENCE)

    def leave(self) -> None:
        """End the talk, and here its threads: one that frees a tensor while Python ends would abort the process."""
        talk, self._talk = self._talk, None
        dist.destroy_process_group(talk)

    def wrap(self, network: nn.Module) -> nn.Module:
        # Spectral norms iterate alike everywhere, and moments are shared: there is nothing to broadcast.
        return DistributedDataParallel(network, forward_sync_buffers=False)

    def without_averaging(self, wrapped: nn.Module) -> AbstractContextManager:
        assert isinstance(wrapped, DistributedDataParallel)
        return wrapped.no_sync()

    def share_statistics(self, network: nn.Module) -> None:
        for parent in list(network.modules()):
            for name, child in parent.named_children():
                if type(child) is nn.BatchNorm2d:
                    setattr(parent, name, SharedBatchNorm2d.of(child))

    def agree(self, wish: bool) -> bool:
        wishes = torch.tensor([int(wish)])
        dist.all_reduce(wishes, dist.ReduceOp.MAX, self._talk)
        return bool(wishes.item())

    def mean(self, losses: Mapping[str, float]) -> dict[str, float]:
        values = torch.tensor([*losses.values()], dtype=torch.float64)
        dist.all_reduce(values, group=self._talk)
        return dict(zip(losses, (values / self.size).tolist(), strict=True))

    def tell(self, message: Any) -> None:
        dist.broadcast_object_list([message], 0, self._talk)

    def hear(self) -> Any:
        heard = [None]
        dist.broadcast_object_list(heard, 0, self._talk)
        return heard[0]


def launched_processes(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many processes `torchrun` has started; 1 where it has not.

    Raises:
        SettingError: If `RANK` and `WORLD_SIZE` are not a process and the number of processes.
    """
    if "RANK" not in environment:
        return 1
    rank, count = environment["RANK"], environment.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and count.isdecimal() and int(rank) < int(count)):
        expected = "the number of this process, from 0, below the number of processes"
        raise SettingError("RANK and WORLD_SIZE", expected, f"'{rank}' and '{count}'", "Unset them, or use torchrun.")
    return int(count)


@contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """Join the processes that `torchrun` or Ray Train has started inside the block; a process alone stays so.

    Args:
        device: `compute.device`; each process takes the GPU of its own number on its machine.

    Raises:
        SettingError: If there are more processes than GPUs.
    """
    if launched_processes() == 1:
        yield ALONE
        return
    with ExitStack() as ends:
        if not dist.is_initialized():  # by Ray Train, which has chosen the GPU too, and ends it
            _begin(device)
            ends.callback(dist.destroy_process_group)
        group = _Group()
        ends.callback(group.leave)
        yield group


def _begin(device: str) -> None:
    """Meet the other processes that `torchrun` has started."""
    on_gpu = device in ("auto", "cuda") and torch.cuda.is_available()
    if on_gpu:
        number, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= there:
            remedy = "Start fewer (--nproc-per-node), or set compute.device=cpu."
            raise SettingError("torchrun", f"at most {there} processes on this machine, one per GPU", "more", remedy)
        torch.cuda.set_device(number)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")


# --- batch norm over all processes ---------------------------------------------------------------


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over the processes; each one's loss depends on the others' terms."""

    @staticmethod
    def forward(context: Any, addend: Tensor) -> Tensor:
        total = addend.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return _sum_over_processes(gradients[0])


@torch._disable_dynamo  # `torch.compiler.disable` would import the compiler, which takes seconds, at once
def _sum_over_processes(addend: Tensor) -> Tensor:
    return _SumOverProcesses.apply(addend)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm by the moments of the images of all processes, which must have equally many.

    Torch's own `SyncBatchNorm` needs GPUs; this one sums moments by any backend. In eval mode it is a plain
    batch norm, and its state is that of one.
    """

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> SharedBatchNorm2d:
        """Return one with the parameters and buffers of a batch norm, not copied."""
        shared = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        shared._parameters, shared._buffers = norm._parameters, norm._buffers
        return shared.train(norm.training)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise [N, C, H, W]."""
        if not self.training:
            return super().forward(images)
        values = images.float()
        variance, mean = torch.var_mean(values, (0, 2, 3), correction=0)
        moments = _sum_over_processes(torch.stack([mean, variance + mean.square()])) / dist.get_world_size()
        mean, variance = moments[0], (moments[1] - moments[0].square()).clamp_min(0)
        if self.track_running_stats:
            self._follow(mean.detach(), variance.detach(), dist.get_world_size() * values.numel() // len(mean))
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        return torch.addcmul(shift[:, None, None], values, scale[:, None, None]).to(images.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, num_values: int) -> None:
        """Move the running statistics, as batch norm does."""
        assert self.momentum is not None
        self.get_buffer("num_batches_tracked").add_(1)
        self.get_buffer("running_mean").lerp_(mean, self.momentum)
        self.get_buffer("running_var").lerp_(variance * (num_values / max(1, num_values - 1)), self.momentum)
