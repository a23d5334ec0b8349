"""Convolution, batch norm, ReLU: the block that every head is made of. (B,C,h,w) -> (B,C',h,w)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class PooledBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that also trains where a channel has one value only: one image, pooled to (1,C,1,1).

    One value has no variance and torch refuses it. mmsegmentation synchronises over GPUs; a batch of one on one device
    has nothing to synchronise with, so there the running statistics stand in (mean 0 and variance 1 until some batch
    has updated them). Everywhere else it is nn.BatchNorm2d, and `SyncBatchNorm.convert_sync_batchnorm` converts it as
    one.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.shape[0] * input.shape[2] * input.shape[3] == 1:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


def conv_norm_relu(in_channels: int, out_channels: int, kernel_px: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel_px, padding=kernel_px // 2, bias=False)
    return nn.Sequential(conv, PooledBatchNorm2d(out_channels), nn.ReLU(inplace=True))


def init_head(head: nn.Module) -> None:
    """He's normal initialisation (fan-out) for the hidden convolutions, N(0, 0.01) for the classifiers.

    He 2015, eq. 10; the classifier's small weights start training at the uniform distribution, loss log K.
    """
    for module in head.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if module.bias is None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
