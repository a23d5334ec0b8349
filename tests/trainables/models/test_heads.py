"""One contract for every head, over backbones of every kind."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables.models.compatibility import PLAIN_HEADS
from trainables.models.heads import HEADS, build_head
from trainables.models.heads.conv_norm import PooledBatchNorm2d
from trainables.models.heads.set_loss import MaskPredictions
from trainables.models.heads.smp_decoders import _AtLeast8
from trainables.models.segmentor import Outputs, Segmentor
from trainables.recipe.recipe import Head, UPerNetHead

HIERARCHICAL = (
    "convnext_atto",
    "test_convnext",
    "resnet18",
    "swin_tiny_patch4_window7_224",
    "twins_svt_small",
    "mit_b0",
)
PLAIN = ("vit_tiny_patch16_224", "beit_base_patch16_224")
USUAL = ("test_convnext", "vit_tiny_patch16_224")
# those of dino.yaml and edge.yaml: under a head of each kind
RECENT_PLAIN = (
    "vit_tiny_patch16_dinov3_qkvb",  # rotary positions, registers
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch14_reg1_tipsv2",
    "eva02_tiny_patch14_224",
)
RECENT = (
    *("mobilenetv4_conv_small", "efficientvit_b0", "convnext_pico", "convnext_tiny.dinov3_lvd1689m"),
    *RECENT_PLAIN,
)


def quick(yes: bool) -> tuple[pytest.MarkDecorator, ...]:
    """The marks of a case that is quick or important enough for every run, or not."""
    return () if yes else (pytest.mark.slow,)


OWN_HEADS = (
    "upernet",
    "knet",
    "segformer",
    "linear",
    "mask_classification",
    *sorted(PLAIN_HEADS),
)  # the others are smp's
# Every pair that there is; those with neither a usual head nor a usual backbone only in the whole suite.
PAIRS = [
    pytest.param(b, h, id=f"{b}-{h}", marks=quick(h == "segformer" or b in USUAL))
    for h in HEADS
    for b in (*HIERARCHICAL, *PLAIN)
    if h not in PLAIN_HEADS or b == PLAIN[0] or (b in PLAIN and h != "eomt")
]
PAIRS += [
    pytest.param(b, h, id=f"{b}-{h}", marks=quick(h == "linear"))
    for h in ("segformer", "linear", "mask_classification", "segmenter")
    for b in RECENT
    if h not in PLAIN_HEADS or b in RECENT_PLAIN
]
STRIDES = [4, 8, 16, 32]
Build = Callable[..., Segmentor]


def smallest(head: str) -> str:
    return "test_vit" if head in PLAIN_HEADS else "test_convnext"


def loss_of(outputs: Outputs) -> Tensor:
    label = torch.zeros(len(outputs.logits), 67, 93, dtype=torch.int64)
    aux = [
        weight * (extra.square().mean() if isinstance(extra, Tensor) else extra.of_images(label, 255).mean())
        for extra, weight in outputs.aux
    ]
    return torch.stack([outputs.logits.square().mean(), *aux]).sum()


@pytest.mark.parametrize(("backbone", "head"), PAIRS)
def test_logits_lie_at_the_heads_own_stride(small_model: Build, backbone: str, head: str) -> None:
    model = small_model(backbone, head).eval()
    for size in ((96, 96), (128, 160), (67, 93)):
        with torch.no_grad():
            logits = model(torch.randn(1, 3, *size))
        assert logits.shape == (1, 5, *(math.ceil(side / model.stride) for side in size))
        assert logits.isfinite().all()


@pytest.mark.parametrize(("backbone", "head"), PAIRS)
def test_gradients_reach_every_parameter(small_model: Build, backbone: str, head: str) -> None:
    model = small_model(backbone, head).train()
    outputs = model.forward_all(torch.randn(2, 3, 67, 93))
    assert outputs.logits.shape[2:] == (math.ceil(67 / model.stride), math.ceil(93 / model.stride))
    loss_of(outputs).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("head", HEADS)
def test_one_small_image_can_be_trained_on(small_model: Build, head: str) -> None:
    outputs = small_model(smallest(head), head).train().forward_all(torch.randn(1, 3, 64, 64))
    assert outputs.logits.isfinite().all()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("training", [True, False])
def test_the_seed_decides_the_logits(small_model: Build, head: str, training: bool) -> None:
    model = small_model(smallest(head), head).train(training)
    image = torch.randn(2, 3, 64, 64)
    logits = []
    for _ in range(2):
        torch.manual_seed(5)
        logits.append(model(image))
    torch.testing.assert_close(*logits, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("head", HEADS)
def test_state_survives_safetensors(small_model: Build, head: str, tmp_path: Path) -> None:
    model = small_model(smallest(head), head).eval()
    image = torch.randn(1, 3, 64, 64)
    before = model(image)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    with torch.no_grad():
        for tensor in model.head.parameters():
            tensor.add_(1.0)
    model.load_state_dict(load_file(tmp_path / "w.safetensors"))
    torch.testing.assert_close(model(image), before, rtol=0.0, atol=0.0)


EXPORTED = [
    *(pytest.param(smallest(head), head, id=head, marks=quick(head in OWN_HEADS)) for head in HEADS),
    *(pytest.param(name, "segformer", id=name, marks=quick(False)) for name in (*HIERARCHICAL, *PLAIN)),
    *(pytest.param(name, "linear", id=name, marks=quick(False)) for name in (*RECENT[:2], *RECENT_PLAIN[::3])),
]


@pytest.mark.parametrize(("backbone", "head"), EXPORTED)
def test_forward_can_be_exported(small_model: Build, backbone: str, head: str) -> None:
    model = small_model(backbone, head).eval()
    image = torch.randn(1, 3, 60, 64)
    exported = torch.export.export(model, (image,)).module()
    torch.testing.assert_close(exported(image), model(image))


@pytest.mark.parametrize("head", ["knet", "dpt", "setr_pup", "mask_classification", "eomt"])
def test_half_precision_stays_near(small_model: Build, head: str) -> None:
    model = small_model(smallest(head), head).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(image).float()
    full = model(image)
    assert (low - full).norm() < 0.05 * full.norm()


@pytest.mark.parametrize("head", HEADS)
def test_logits_are_float32_where_the_rest_is_bfloat16(small_model: Build, head: str) -> None:
    """Eight bits of bfloat16 would tie; in training the loss itself takes care."""
    model = small_model(smallest(head), head).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        logits = model(torch.randn(1, 3, 64, 64))
    assert logits.dtype == torch.float32
    assert logits.to(torch.bfloat16).float().ne(logits).any()


def test_two_classes_get_graded_masks(small_model: Build) -> None:
    logits = small_model("test_vit", "segmenter", num_classes=2)(torch.randn(1, 3, 96, 96))
    difference = (logits[:, 0] - logits[:, 1]).abs()
    assert difference.std() > 0.01 * difference.mean()


def test_a_loss_of_its_own_is_there_while_training_and_where_weighted(small_model: Build) -> None:
    image = torch.randn(2, 3, 64, 64)
    model = small_model("test_convnext", "mask_classification", set_weight=0.5)
    [(predictions, weight)] = model.train().forward_all(image).aux
    assert isinstance(predictions, MaskPredictions)
    assert (len(predictions.layers), weight) == (4, 0.5)  # before the first layer, and after each of three
    assert model.eval().forward_all(image).aux == []
    assert small_model("test_convnext", "mask_classification", set_weight=0).train().forward_all(image).aux == []


@pytest.mark.parametrize("head", ["upernet", "knet", "setr_naive", "setr_pup"])
def test_auxiliaries_are_there_while_training_and_where_weighted(small_model: Build, head: str) -> None:
    image = torch.randn(2, 3, 64, 64)
    model = small_model(smallest(head), head)
    weights = [weight for _, weight in model.train().forward_all(image).aux]
    assert weights == {"upernet": [0.4], "knet": [1.0, 1.0, 0.4]}.get(head, [0.4, 0.4, 0.4])
    assert model.eval().forward_all(image).aux == []
    bare = small_model(smallest(head), head, aux_weight=0).train().forward_all(image).aux
    assert [weight for _, weight in bare] == ([1.0, 1.0] if head == "knet" else [])


def test_upernet_of_equal_features_is_flat_inside() -> None:
    head = build_head(UPerNetHead(channels=8), [8] * 4, STRIDES, 5).eval()
    features = [torch.ones(1, 8, 256 // s, 256 // s) for s in STRIDES]
    inner = head(features)[0][:, :, 30:34, 30:34]  # away from the borders' zero padding
    torch.testing.assert_close(inner, inner[:, :, :1, :1].expand_as(inner), rtol=0.0, atol=1e-6)


def test_pooled_batch_norm_is_batch_norm_but_for_single_values() -> None:
    own, torchs = PooledBatchNorm2d(3), nn.BatchNorm2d(3)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(own(x), torchs(x))
    single = torch.randn(1, 3, 1, 1)
    torch.testing.assert_close(own(single), torchs.eval()(single))


def test_padded_attention_leaves_large_maps_alone() -> None:
    block = nn.Conv2d(2, 2, 3, padding=1)
    large, small = torch.randn(1, 2, 8, 9), torch.randn(1, 2, 3, 10)
    torch.testing.assert_close(_AtLeast8(block)(large), block(large))
    assert _AtLeast8(nn.MaxPool2d(1))(small).equal(small)


@pytest.mark.parametrize("head", ["unet", "pspnet"])
def test_smp_decoders_refuse_other_strides(head_cfg: Callable[..., Head], head: str) -> None:
    with pytest.raises(ValueError, match=f"head '{head}' needs features at strides 4, 8, 16 and 32"):
        build_head(head_cfg(head), [8] * 4, [16] * 4, 5)


@pytest.mark.parametrize(("channels", "near"), [(36, "32 or 40"), (384, "256 or 512")])
def test_kernels_that_cannot_be_divided_are_refused(head_cfg: Callable[..., Head], channels: int, near: str) -> None:
    with pytest.raises(ValueError, match=f"divisible by 8, above 256 by 256, got {channels}; use {near}"):
        head_cfg("knet", channels=channels)


def test_queries_that_cannot_be_divided_or_are_too_few_are_refused(head_cfg: Callable[..., Head]) -> None:
    with pytest.raises(ValueError, match="divisible by 8, got 36; use 32 or 40"):
        head_cfg("mask_classification", channels=36)
    with pytest.raises(ValueError, match="num_queries must be at least the number of classes, 5, got 4; use 5 or more"):
        build_head(head_cfg("mask_classification", num_queries=4), [8] * 4, STRIDES, 5)
