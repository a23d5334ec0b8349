"""Low-rank updates of a transformer's attention, frozen stages: what learns, and the ordinary network behind it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainables.models.lora import LowRank, merged_weights
from trainables.models.segmentor import Segmentor, adapt_as, build_segmentor
from trainables.recipe.recipe import Backbone, LinearHead, Optimizer, Recipe
from trainables.training.optim import build_optimizer
from trainables.training.state import checkpoint_gradients


def built(name: str, **fields: Any) -> Segmentor:
    torch.manual_seed(0)
    recipe = Recipe(backbone=Backbone(name=name, pretrained=False, **fields), head=LinearHead(dropout=0.0))
    model = build_segmentor(recipe, 3)
    adapt_as(model, recipe.backbone)
    return model


def learnt(name: str = "test_vit") -> Segmentor:
    """An adapted network whose updates are not 0 any more."""
    model = built(name, lora_rank=2, lora_alpha=4.0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LowRank):
                module.b.normal_(std=0.1)
    return model


@pytest.mark.parametrize("name", ["test_vit", "eva02_tiny_patch14_224", "beit_base_patch16_224"])
def test_it_begins_as_the_plain_network(name: str) -> None:
    image = torch.randn(1, 3, 32, 64)
    torch.testing.assert_close(built(name, lora_rank=2).eval()(image), built(name).eval()(image))


# one layer for queries, keys and values; one each, with rotary positions; weights that BEiT's own attention reads
@pytest.mark.parametrize(
    ("name", "layers"), [("test_vit", 2), ("eva02_base_patch14_224", 4), ("beit_base_patch16_224", 2)]
)
def test_every_linear_layer_of_the_attention_is_updated(name: str, layers: int) -> None:
    with torch.device("meta"):
        body = built(name, lora_rank=2).backbone.body
    assert sum(isinstance(module, LowRank) for module in body.modules()) == layers * len(body.model.blocks)


def test_merged_it_is_an_ordinary_network_that_computes_the_same() -> None:
    image, adapted, plain = torch.randn(1, 3, 32, 64), learnt().eval(), built("test_vit").eval()
    before = plain(image)
    plain.load_state_dict(merged_weights(adapted))
    assert torch.equal(plain(image), adapted(image))
    assert not torch.equal(plain(image), before)


def test_the_update_is_alpha_over_rank_times_the_product() -> None:
    weight = torch.randn(6, 5)
    update = LowRank(weight, rank=2, alpha=3.0)
    torch.nn.init.normal_(update.b)
    expected = weight.clone()
    for i in range(6):
        for j in range(5):
            expected[i, j] += 1.5 * sum(update.b[i, r] * update.a[r, j] for r in range(2)).detach()
    torch.testing.assert_close(update(weight), expected)


def test_the_optimiser_holds_updates_and_head_alone_each_at_its_depth() -> None:
    model, plain = built("test_vit", lora_rank=2), built("test_vit")
    rates: list[dict[str, float]] = []
    for one in (model, plain):
        names = {id(parameter): name for name, parameter in one.named_parameters()}
        groups = build_optimizer(one, Optimizer(layer_decay=0.5)).param_groups
        rates.append({names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]})
    ours, theirs = rates
    body = {name: rate for name, rate in ours.items() if name.startswith("backbone.body.")}
    assert body
    assert all(name.endswith((".weight.0.a", ".weight.0.b")) for name in body)
    for name, rate in body.items():
        assert rate == theirs[name.replace(".parametrizations.weight.0", "")[:-1] + "weight"]
    assert set(ours) - set(body) == {name for name in theirs if not name.startswith("backbone.body.")}


@pytest.mark.parametrize("recomputed", [False, True])
def test_a_step_moves_the_updates_and_leaves_the_weights(recomputed: bool) -> None:
    model = learnt().train()
    if recomputed:
        checkpoint_gradients(model)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, Optimizer(lr=0.1))
    model(torch.randn(2, 3, 32, 64)).square().mean().backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (not parameter.requires_grad), name


STAGES = [
    ("test_convnext", ("stem", "stages_0.", "stages.0.")),
    ("test_resnet", ("conv1", "bn1", "layer1.")),
    ("test_vit", ("model.patch_embed", "model.pos_embed", "model.cls_token", "model.blocks.0.")),
    ("swin_tiny_patch4_window7_224", ("patch_embed", "layers_0.", "layers.0.")),
    ("twins_svt_small", ("patch_embeds.0.", "pos_block.0.", "blocks.0.")),
    ("mit_b0", ("model.patch_embed1.", "model.block1.", "model.norm1.")),
]


@pytest.mark.parametrize(("name", "kept"), STAGES)
def test_the_first_stage_and_the_stem_are_kept(name: str, kept: tuple[str, ...]) -> None:
    with torch.device("meta"):
        body = build_segmentor(
            Recipe(backbone=Backbone(name=name, pretrained=False, frozen_stages=1), head=LinearHead()), 3
        ).backbone.body
    learning = {name: parameter.requires_grad for name, parameter in body.named_parameters()}
    inner = {name: name.removeprefix("model.") for name in learning}
    starts = tuple(start.removeprefix("model.") for start in kept)
    assert learning == {name: not inner[name].startswith(starts) for name in learning}


def test_statistics_of_frozen_stages_stay_and_others_move() -> None:
    model = built("test_resnet", frozen_stages=2).train()
    before = {name: value.clone() for name, value in model.backbone.body.state_dict().items()}
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    moved = {name for name, value in model.backbone.body.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in moved} == {"layer3", "layer4"}
    assert not any(module.training for module in model.backbone.body.layer2.modules())
    assert model.backbone.body.layer3.training


@pytest.mark.parametrize(
    ("name", "stages", "remedy"), [("test_vit", 6, "use 5 or fewer"), ("test_convnext", 4, "use 3")]
)
def test_something_has_to_learn(name: str, stages: int, remedy: str) -> None:
    with pytest.raises(ValueError, match=f"frozen_stages must leave a stage or block that learns.*{remedy}"):
        built(name, frozen_stages=stages)


def test_a_network_without_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="lora_rank needs a transformer with linear layers in its attention"):
        built("test_convnext", lora_rank=2)
