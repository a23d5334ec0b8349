"""segmentor: padding and cropping, upsampling, seeds, export, layer-wise decay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from trainables.models.resize import upsample
from trainables.models.segmentor import Outputs, Segmentor, build_segmentor
from trainables.recipe.recipe import Backbone, Recipe, SegFormerHead, UPerNetHead

SWIN = "swin_tiny_patch4_window7_224"


def build(seed: int = 0) -> Segmentor:
    torch.manual_seed(seed)
    recipe = Recipe(backbone=Backbone(name="test_convnext", pretrained=False), head=SegFormerHead(channels=16))
    return build_segmentor(recipe, 5)


def test_odd_sizes_are_padded_right_and_below_and_cropped() -> None:
    model = build().eval()
    image = torch.randn(1, 3, 67, 93)
    whole = model(functional.pad(image, (0, 3, 0, 29)))
    torch.testing.assert_close(model(image), whole[:, :, :17, :24])


def test_upsampling_a_padded_grid_moves_no_pixel() -> None:
    ramp = torch.arange(24.0).expand(1, 1, 17, 24)
    columns = (torch.arange(93) + 0.5) / 4 - 0.5  # the pixel centres on the grid
    expected = columns.clamp(0, 23).expand(1, 1, 67, 93)
    torch.testing.assert_close(upsample(ramp, 4, (67, 93)), expected)


def test_upsampling_to_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"within one stride under the grid, got \(60, 93\)"):
        upsample(torch.zeros(1, 1, 17, 24), 4, (60, 93))


def test_the_seed_decides_the_initial_weights() -> None:
    first, again, other = (build(seed).state_dict() for seed in (1, 1, 2))
    assert all(first[key].equal(again[key]) for key in first)
    assert not all(first[key].equal(other[key]) for key in first)


def test_pretrained_can_be_overridden() -> None:
    recipe = Recipe(backbone=Backbone(name="test_convnext", weights_file="gone.pth"), head=SegFormerHead())
    model = build_segmentor(recipe, 5, pretrained=False)
    assert str(model.load_report) == "random initialisation"
    with pytest.raises(ValueError, match=r"gone\.pth does not exist"):
        build_segmentor(recipe, 5)


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        build_segmentor(Recipe(backbone=Backbone(name="test_convnext"), head=SegFormerHead()), 1)


def test_forward_can_be_exported() -> None:
    model = build().eval()
    image = torch.randn(1, 3, 67, 93)
    exported = torch.export.export(model, (image,)).module()
    torch.testing.assert_close(exported(image), model(image))


def test_channels_last_gives_the_same_logits() -> None:
    model = build().eval()
    image = torch.randn(1, 3, 64, 96)
    expected = model(image)
    got = model.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected)


def test_images_may_have_other_channels() -> None:
    recipe = Recipe(backbone=Backbone(name="test_convnext", pretrained=False), head=SegFormerHead(channels=16))
    assert build_segmentor(recipe, 5, in_chans=4)(torch.randn(1, 4, 64, 64)).shape == (1, 5, 16, 16)


class Everything(nn.Module):
    """What training wraps: one call that gives the auxiliaries too."""

    def __init__(self, model: Segmentor) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Outputs:
        return self.model.forward_all(image)


@pytest.mark.filterwarnings("ignore:Grad strides do not match bucket view strides")  # torch's, about speed
@pytest.mark.parametrize(
    ("backbone", "head"), [("test_convnext", "upernet"), ("test_vit", "knet"), ("test_vit", "setr_pup")]
)
def test_gradients_go_through_ddp(
    small_model: Callable[..., Segmentor], backbone: str, head: str, tmp_path: Path
) -> None:
    model = Everything(small_model(backbone, head))
    image = torch.randn(2, 3, 64, 64)
    expected = gradients(model, model, image)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        found = gradients(model, DistributedDataParallel(model), image)
    finally:
        torch.distributed.destroy_process_group()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def gradients(model: nn.Module, wrapped: nn.Module, image: Tensor) -> dict[str, Tensor]:
    model.train().zero_grad(set_to_none=True)
    torch.manual_seed(0)  # dropout's
    outputs = wrapped(image)
    torch.stack([x.square().mean() for x, _ in [(outputs.logits, 1.0), *outputs.aux]]).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_timm_reads_layer_wise_decay_from_the_segmentor() -> None:
    model = build()
    optimizer = create_optimizer_v2(model, "adamw", lr=1.0, weight_decay=0.1, layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    stem, head = model.backbone.body["stem_0"].weight, model.head.classifier.weight
    assert scale[id(head)] == 1.0
    assert scale[id(stem)] == min(scale.values()) < 0.1
    assert set(scale) == {id(parameter) for parameter in model.parameters()}


def test_swin_bias_tables_are_not_decayed() -> None:
    with torch.device("meta"):
        model = build_segmentor(Recipe(backbone=Backbone(name=SWIN), head=UPerNetHead()), 5)
    optimizer = create_optimizer_v2(model, "adamw", lr=1.0, weight_decay=0.1)
    free = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]}
    tables = [p for name, p in model.named_parameters() if name.endswith("relative_position_bias_table")]
    assert tables
    assert all(id(table) in free for table in tables)
