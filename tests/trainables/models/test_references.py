"""Heads and pyramid against references written as loops over images, classes and pixels, from the papers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.models.heads.knet import KernelStage
from trainables.models.heads.segmenter import Segmenter, num_heads
from trainables.models.heads.setr import Setr
from trainables.models.resize import upsample
from trainables.models.simple_pyramid import SimplePyramid
from trainables.recipe.recipe import SegmenterHead, SetrHead

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Values of no special form, so that a scale or shift left out shows."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(tensor.abs() + 0.5)
    return module.eval()


def norm(x: Tensor, layer: nn.Module) -> Tensor:
    mean = sum(x) / len(x)
    variance = sum((x - mean) ** 2) / len(x)
    return (x - mean) / (variance + 1e-5) ** 0.5 * layer.weight + layer.bias


def linear(x: Tensor, layer: nn.Module) -> Tensor:
    out = [sum(w * v for w, v in zip(row, x, strict=True)) for row in layer.weight]
    return torch.stack(out) + (0.0 if layer.bias is None else layer.bias)


def updated(group: Tensor, kernel: Tensor, update: nn.Module) -> Tensor:
    """Eqs. 5 and 6 of K-Net for one kernel (D,) and its group feature (D,)."""
    width, pieces = update.width, []
    for start in range(0, len(kernel), width):
        phi_1, psi_3 = linear(group[start : start + width], update.from_group).split(width)
        phi_2, psi_4 = linear(kernel[start : start + width], update.from_kernel).split(width)
        gate_f, gate_k = (
            torch.sigmoid(norm(linear(phi_1 * phi_2, gate[0]), gate[1]))
            for gate in (update.group_gate, update.kernel_gate)
        )
        merged = gate_f * norm(psi_3, update.group_norm) + gate_k * norm(psi_4, update.kernel_norm)
        pieces.append(norm(linear(merged, update.out[0]), update.out[1]).clamp(min=0))
    return torch.cat(pieces)


def attended(kernels: list[Tensor], attention: nn.MultiheadAttention) -> list[Tensor]:
    width = len(kernels[0])
    size = width // attention.num_heads
    rows = attention.in_proj_weight.split(width)
    shifts = attention.in_proj_bias.split(width)
    q, k, v = ([row @ x + shift for x in kernels] for row, shift in zip(rows, shifts, strict=True))
    out = []
    for i in range(len(kernels)):
        mixed = []
        for start in range(0, width, size):
            part = slice(start, start + size)
            scores = torch.stack([q[i][part] @ k[j][part] / math.sqrt(size) for j in range(len(kernels))])
            weights = scores.exp() / scores.exp().sum()
            mixed.append(sum(weights[j] * v[j][part] for j in range(len(kernels))))
        out.append(linear(torch.cat(mixed), attention.out_proj))
    return out


def stage_by_loops(stage: KernelStage, fused: Tensor, kernels: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    all_masks, all_kernels = [], []
    for image, known, mask in zip(fused, kernels, masks, strict=True):
        _, height, width = image.shape
        pixels = [(y, x) for y in range(height) for x in range(width)]
        weight = stage.transform.weight[:, :, 0, 0]
        at = {(y, x): weight @ image[:, y, x] + stage.transform.bias for y, x in pixels}
        share = {(y, x): mask[:, y, x].exp() / mask[:, y, x].exp().sum() for y, x in pixels}
        new = []
        for k in range(len(known)):
            mass = sum(share[pixel][k] for pixel in pixels)
            group = sum(share[pixel][k] * at[pixel] for pixel in pixels) / mass
            new.append(updated(group, known[k], stage.update))
        extra = attended(new, stage.attention)
        new = [norm(x + y, stage.attention_norm) for x, y in zip(new, extra, strict=True)]
        first, _, second = stage.feed_forward
        new = [norm(x + linear(linear(x, first).clamp(min=0), second), stage.feed_forward_norm) for x in new]
        inner, inner_norm, _, outer = stage.mask_kernel
        mask_kernels = [linear(norm(linear(x, inner), inner_norm).clamp(min=0), outer) for x in new]
        logits = torch.stack([torch.stack([x @ at[pixel] for pixel in pixels]) for x in mask_kernels])
        all_masks.append(logits.reshape(-1, height, width))
        all_kernels.append(torch.stack(new))
    return torch.stack(all_masks), torch.stack(all_kernels)


@pytest.mark.parametrize("pieces", [1, 2])  # of a kernel, in the update
def test_a_stage_of_knet_follows_the_paper(pieces: int) -> None:
    stage = randomise(KernelStage(16, update_width=16 // pieces)).double()
    torch.manual_seed(0)
    fused, kernels, masks = (torch.randn(2, *shape).double() for shape in ((16, 3, 4), (3, 16), (3, 3, 4)))
    # the group features are gathered in single precision
    with torch.no_grad():
        expected = stage_by_loops(stage, fused, kernels, masks)
        stage.float()
        found = stage(fused.float(), kernels.float(), masks.float())
    for own, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(own.double(), reference, **CLOSE)


def test_masks_of_segmenter_are_normed_cosines() -> None:
    head = randomise(Segmenter(SegmenterHead(num_layers=1), [8], [16], 3))
    patches, classes = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    found = head.masks(patches, classes)
    for b in range(2):
        for p in range(5):
            patch = head.project_patches.weight @ patches[b, p]
            cosines = []
            for k in range(3):
                embedded = head.project_classes.weight @ classes[b, k]
                cosines.append(patch @ embedded / (patch.norm() * embedded.norm()))
            torch.testing.assert_close(found[b, :, p], norm(torch.stack(cosines), head.mask_norm), **CLOSE)


def test_segmenter_puts_classes_behind_the_patches() -> None:
    head = randomise(Segmenter(SegmenterHead(num_layers=2), [8], [16], 3))
    feature = torch.randn(1, 8, 2, 3)
    tokens = [linear(feature[0, :, y, x], head.project) for y in range(2) for x in range(3)]
    tokens = torch.stack([*tokens, *head.classes[0]])[None]
    for layer in head.layers:
        tokens = layer(tokens)
    tokens = torch.stack([norm(token, head.norm) for token in tokens[0]])
    expected = head.masks(tokens[None, :6], tokens[None, 6:]).reshape(1, 3, 2, 3)
    torch.testing.assert_close(head([feature])[0], expected, **CLOSE)


@pytest.mark.parametrize(("width", "heads"), [(1024, 16), (192, 3), (64, 1), (48, 1), (176, 2)])
def test_segmenter_has_a_head_every_64_channels(width: int, heads: int) -> None:
    assert num_heads(width) == heads


def bilinear(x: Tensor, factor: int) -> Tensor:
    """(C,h,w) -> (C,h*factor,w*factor): each pixel from the four centres about it, borders repeated."""
    _, height, width = x.shape
    out = torch.zeros(len(x), height * factor, width * factor)
    for i in range(height * factor):
        for j in range(width * factor):
            y, z = ((place + 0.5) / factor - 0.5 for place in (i, j))
            top, left = math.floor(y), math.floor(z)
            for row, a in ((top, 1 - (y - top)), (top + 1, y - top)):
                for column, b in ((left, 1 - (z - left)), (left + 1, z - left)):
                    out[:, i, j] += a * b * x[:, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
    return out


def conv_norm_relu(x: Tensor, block: nn.Sequential) -> Tensor:
    conv, batch_norm, _ = block
    weight, side = conv.weight, conv.kernel_size[0] // 2
    padded = functional.pad(x, (side,) * 4)
    rows = []
    for i in range(x.shape[1]):
        windows = [padded[:, i : i + 2 * side + 1, j : j + 2 * side + 1] for j in range(x.shape[2])]
        rows.append(torch.stack([(weight * window).sum(dim=(1, 2, 3)) for window in windows], dim=1))
    mapped = torch.stack(rows, dim=1)
    shape = (-1, 1, 1)
    scale = (batch_norm.weight / (batch_norm.running_var + batch_norm.eps).sqrt()).reshape(shape)
    shifted = (mapped - batch_norm.running_mean.reshape(shape)) * scale + batch_norm.bias.reshape(shape)
    return shifted.clamp(min=0)


def classified(x: Tensor, classifier: nn.Conv2d) -> Tensor:
    return torch.einsum("kc,chw->khw", classifier.weight[:, :, 0, 0], x) + classifier.bias.reshape(-1, 1, 1)


def test_naive_setr_is_two_layers_and_one_upsampling() -> None:
    head = randomise(Setr(SetrHead(name="setr_naive", channels=8, aux_weight=0), [8], [16], 3))
    feature = torch.randn(1, 8, 2, 3)
    expected = bilinear(classified(conv_norm_relu(feature[0], head.decoder[0]), head.decoder[-1]), 16)
    found = upsample(head([feature])[0], head.stride, (32, 48))[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_progressive_setr_doubles_four_times_before_it_classifies() -> None:
    head = randomise(Setr(SetrHead(name="setr_pup", channels=8, aux_weight=0), [8], [16], 3))
    feature = torch.randn(1, 8, 1, 2)
    x = feature[0]
    for block in head.decoder[0:7:2]:
        x = bilinear(conv_norm_relu(x, block), 2)
    found = upsample(head([feature])[0], head.stride, (16, 32))[0]
    torch.testing.assert_close(found, classified(x, head.decoder[-1]), rtol=1e-4, atol=1e-4)


def transposed(x: Tensor, layer: nn.ConvTranspose2d) -> Tensor:
    """A 2x2 transposed convolution of stride 2: pixel (i,j) makes the block at (2i,2j)."""
    _, height, width = x.shape
    out = torch.zeros(layer.out_channels, 2 * height, 2 * width)
    for i in range(height):
        for j in range(width):
            for a in range(2):
                for b in range(2):
                    out[:, 2 * i + a, 2 * j + b] = layer.weight[:, :, a, b].T @ x[:, i, j] + layer.bias
    return out


def test_the_simple_pyramid_doubles_and_pools() -> None:
    pyramid = randomise(SimplePyramid(4, 16, (4, 8, 16, 32), range(4)))
    features = [torch.randn(1, 4, 2, 4) for _ in range(4)]
    found = [level[0] for level in pyramid(features)]
    first, middle, _, second = pyramid.scalings[0]
    x = transposed(features[0][0], first)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            centred = x[:, i, j] - x[:, i, j].mean()
            x[:, i, j] = centred / (centred.square().mean() + middle.eps).sqrt() * middle.weight + middle.bias
    x = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))  # GELU
    torch.testing.assert_close(found[0], transposed(x, second), **CLOSE)
    torch.testing.assert_close(found[1], transposed(features[1][0], pyramid.scalings[1][0]), **CLOSE)
    assert found[2].equal(features[2][0])
    pooled = [features[3][0, :, :, j : j + 2].amax(dim=(1, 2)) for j in (0, 2)]
    assert found[3].equal(torch.stack(pooled, dim=1)[:, None])


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_the_simple_pyramid_starts_at_any_of_three_strides(stride: int) -> None:
    features = [torch.randn(1, 4, 64 // stride, 96 // stride) for _ in range(4)]
    levels = SimplePyramid(4, stride, (4, 8, 16, 32), range(4))(features)
    assert [level.shape[2:] for level in levels] == [(64 // s, 96 // s) for s in (4, 8, 16, 32)]
