"""The processes that train one trial together, each on a device of its own: sums, shares of work, averaged gradients.

One process alone, the default, communicates nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

Item = TypeVar("Item")
# Whoever started the ranks ends them all where one dies, so none waits for the dead; but one may write a checkpoint
# to a slow disk while the others wait for its next batch.
_TIMEOUT = datetime.timedelta(hours=2)


@dataclass(frozen=True)
class Ranks:
    """`rank` is this process's, from 0; `count` how many there are."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """The one that writes checkpoints and reports."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This rank's part of work that may be done in any order; the parts differ by one item at most."""
        return items[self.rank :: self.count]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of every rank's `tensor`, the same on all of them; in place."""
        if self.count > 1:
            distributed.all_reduce(tensor)
        return tensor

    def averaging(self, module: nn.Module, device: str) -> nn.Module:
        """`module`, its gradients averaged over the ranks while the backward pass goes on (Li et al., 2020, DDP)."""
        if self.count == 1:
            return module
        # batch norms are synchronised, so the buffers are equal already
        ids = [torch.device(device)] if device.startswith("cuda") else None
        return DistributedDataParallel(module, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)


ALONE = Ranks()


@contextlib.contextmanager
def joined(ranks: Ranks, meeting: Path, device: str) -> Iterator[None]:
    """This process as one of `ranks`, which find each other through the file `meeting`: NCCL on GPUs, Gloo on CPUs.

    Left by an exception, the group stays: NCCL would wait in its end for ranks that still compute, and the exception
    would not be told before they give up. The process is to be ended then.
    """
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    elif sys.platform.startswith("linux"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks of a trial are on one machine
    distributed.init_process_group(
        "nccl" if device.startswith("cuda") else "gloo",
        init_method=f"file://{meeting}",
        rank=ranks.rank,
        world_size=ranks.count,
        timeout=_TIMEOUT,
    )
    yield
    distributed.destroy_process_group()
