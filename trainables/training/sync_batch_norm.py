"""Batch norms over the whole batch where several ranks train one trial.

Each batch norm's mean and variance are taken over all ranks, as one process would take them over the whole batch.
Names, parameters and running statistics stay as they are, so that the weights are those of the plain model.
"""

from __future__ import annotations

from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional


def synchronise(model: nn.Module, device: str) -> nn.Module:
    """torch's SyncBatchNorm on GPUs; it has no kernels for CPUs, where `CpuSyncBatchNorm` does the same."""
    if device.startswith("cuda"):
        converted: nn.Module = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call, unused-ignore]
        return converted
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = CpuSyncBatchNorm  # parameters, buffers and their names stay
    return model


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """x (B,C,H,W) -> the same shape, normalised over the B*H*W values of all ranks (Ioffe and Szegedy 2015, alg. 1)."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            out = self._normalise(input.float()).to(input.dtype)
        else:
            out = functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        for name in ("drop", "act"):  # of timm's batch norm with an activation
            if hasattr(self, name):
                out = getattr(self, name)(out)
        return out

    def _normalise(self, x: Tensor) -> Tensor:
        # the collectives are differentiable: a rank's values count in every other's mean
        count = _sum(x.new_tensor(float(x.numel() // x.shape[1])))
        mean = _sum(x.sum((0, 2, 3))) / count  # (C,)
        centred = x - mean[:, None, None]
        var = _sum(centred.square().sum((0, 2, 3))) / count  # (C,)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            momentum = self.momentum or 0.0
            unbiased = var.detach() * count / (count - 1)
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_(unbiased, momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        out: Tensor = centred * (var + self.eps).rsqrt()[:, None, None]
        if self.affine:
            out = out * self.weight[:, None, None] + self.bias[:, None, None]
        return out


def _sum(tensor: Tensor) -> Tensor:
    """Over all ranks, with the gradient of a sum."""
    total: Tensor = all_reduce(tensor)  # type: ignore[no-untyped-call, unused-ignore]
    return total
