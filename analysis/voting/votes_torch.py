"""Confusion counts of votes on a torch device: what `probabilities`, `votes` and `confusion` do on the CPU.

The operations are the kernels' own, in their order and in float32, ties included; but a device may fuse a product with
a sum and rounds its exponentials differently, so labels can differ where the two highest scores agree to about 1e-6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from analysis.voting.probabilities import finite_logits
from analysis.voting.stacker import LEAST
from analysis.voting.votes import Labels, Vote, stacked_by_map, used_by
from trainables.device import float32_products
from trainables.logits.store import LogitStore
from trainables.metrics import confusion_torch
from trainables.worker_process import is_out_of_memory, release_memory

if TYPE_CHECKING:
    from analysis.voting.view_config import ViewConfig

BLOCK = 2**18  # pixels voted on at once: bounds the memory of V scores each


class DeviceCounter:
    """Counts votes on `device`, such as "cuda". Once an image's probabilities do not fit its memory, they lie in the
    host's, and go to the device a block at a time: the same numbers, more slowly."""

    def __init__(self, stores: Sequence[LogitStore], device: str) -> None:
        self.stores, self.device = stores, torch.device(device)
        self.fits = True
        self.forget()

    def forget(self) -> None:
        self.image_id, self.q = "", torch.empty(0)  # (M,K,P): zeros for members that no vote has used
        self.seen: dict[int, tuple[tuple[str, ...], float]] = {}  # what lies in q, by member

    def count(self, view_config: ViewConfig, image_id: str, label: Labels, votes: Sequence[Vote]) -> NDArray[np.int64]:
        try:
            return self._count(view_config, image_id, label, votes)
        except Exception as error:
            if not self.fits or not is_out_of_memory(error):
                raise
        self.fits = False
        self.forget()
        release_memory()  # after the exception, whose frames held what did not fit
        return self._count(view_config, image_id, label, votes)

    def room(self, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape, device=self.device if self.fits else "cpu")

    @torch.inference_mode()
    def _count(self, view_config: ViewConfig, image_id: str, label: Labels, votes: Sequence[Vote]) -> NDArray[np.int64]:
        truth = torch.from_numpy(np.array(label)).to(self.device).reshape(-1)
        with float32_products("off"):
            labelled = labels_on_device(self.probabilities(view_config, image_id, used_by(votes)), votes, self.device)
        num_classes = len(self.stores[0].header.classes)
        return torch.stack([confusion_torch(truth, row, num_classes) for row in labelled]).cpu().numpy()

    @torch.inference_mode()
    def probabilities(self, view_config: ViewConfig, image_id: str, members: Sequence[int]) -> Tensor:
        """(M,K,P): what is seen of each of `members`, at the label's size."""
        size = self.stores[0].sizes[image_id]
        if image_id != self.image_id:
            shape = len(self.stores), len(self.stores[0].header.classes), *size
            self.image_id, self.q, self.seen = image_id, self.room(shape), {}
        for m in members:
            wanted = views, temperature = view_config.views[m], view_config.temperatures[m]
            if self.seen.get(m) != wanted:
                total = torch.zeros(self.q.shape[1:], device=self.device)
                for view in views:
                    grid = torch.from_numpy(finite_logits(self.stores[m], view, image_id)).to(self.device)
                    tempered = grid * float(np.float32(1 / temperature)) if temperature != 1 else grid
                    up = interpolate(tempered[None], size, mode="bilinear", align_corners=False)[0]
                    total.add_(up.softmax(0), alpha=1 / len(views))
                self.q[m] = total
                self.seen[m] = wanted
        return self.q.flatten(2)


def labels_on_device(q: Tensor, votes: Sequence[Vote], device: torch.device) -> Tensor:
    """Probabilities (M,K,P), wherever they lie, to labels (V,P) uint8 on the device, a row per vote."""
    blocks = [_block_labels(block.to(device), votes) for block in torch.split(q, BLOCK, dim=2)]
    return torch.cat(blocks, dim=1)


def _block_labels(q: Tensor, votes: Sequence[Vote]) -> Tensor:
    out = torch.empty((len(votes), q.shape[2]), dtype=torch.uint8, device=q.device)
    soft = [v for v, vote in enumerate(votes) if vote.kind == "soft"]
    if soft:
        out[soft] = _soft_labels(q, np.stack([votes[v].weights for v in soft]))
    hard = [v for v, vote in enumerate(votes) if vote.kind == "hard"]
    if hard:
        batches = q.argmax(1)  # (M,P)
        for v in hard:
            out[v] = _majority(batches[votes[v].used], q.shape[1])
    for v, vote in enumerate(votes):
        if vote.kind == "geometric":
            scores = torch.zeros_like(q[0])
            for m in vote.used:
                weights = torch.from_numpy(vote.weights[m]).to(q.device)[:, None]
                scores += weights * q[m].clamp_min(float(LEAST)).log()
            out[v] = scores.argmax(0)
    for same_map in stacked_by_map(votes):
        _write_stacked(q, votes, same_map, out)
    return out


def _write_stacked(q: Tensor, votes: Sequence[Vote], places: Sequence[int], out: Tensor) -> None:
    """Labels of stacked votes of one map, (V,P) at these places."""
    used, first = votes[places[0]].used, votes[places[0]].stacker
    assert first is not None
    logs = q[used].clamp_min(float(LEAST)).log()
    mean, values = logs.sum(0) / len(used), logs.flatten(0, 1)
    layers = [torch.from_numpy(layer).to(q.device) for layer in first.layers]
    for n, (weights, biases) in enumerate(zip(layers[::2], layers[1::2], strict=True)):
        values = torch.addmm(biases[:, None], weights, values if n == 0 else values.relu())
    fitted = torch.from_numpy(first.fitted).to(q.device)
    for v in places:
        stacker = votes[v].stacker
        assert stacker is not None
        corrected = mean + float(np.float32(stacker.strength)) * values
        joined = corrected.softmax(0)
        if not stacker.fitted.all():
            joined = mean.softmax(0)
            joined[fitted] = joined[fitted].sum(0) * corrected[fitted].softmax(0)
        out[v] = _soft_labels(joined[None], votes[v].weights[used[:1]][None])[0]


def _soft_labels(q: Tensor, weights: NDArray[np.float32]) -> Tensor:  # (M,K,P), (V,M,K) -> (V,P) uint8
    # member by member, as the kernels sum: a matrix product would choose its own order, and on some GPUs 10 bits
    w = torch.from_numpy(weights).to(q.device)
    best, who = torch.empty(0), torch.empty(0)
    for k in range(q.shape[1]):
        score = torch.zeros((len(w), q.shape[2]), device=q.device)
        for m in range(q.shape[0]):
            score.addcmul_(w[:, m, k, None], q[m, k])
        if k == 0:
            best, who = score, torch.zeros_like(score, dtype=torch.uint8)
        else:
            better = score > best  # so the lowest class wins a tie
            best = torch.where(better, score, best)
            who.masked_fill_(better, k)
    return who


def _majority(batches: Tensor, num_classes: int) -> Tensor:  # (M,P), best member first -> (P,)
    cast = torch.zeros((num_classes, batches.shape[1]), dtype=torch.int32, device=batches.device)
    cast.scatter_add_(0, batches, torch.ones_like(batches, dtype=torch.int32))
    support = cast.gather(0, batches)  # (M,P): votes for each member's own label
    first = support.argmax(0, keepdim=True)  # of equals, the first member's label wins
    return batches.gather(0, first)[0]
