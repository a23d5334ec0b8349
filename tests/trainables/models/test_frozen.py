"""A frozen backbone: the same features as one that learns, before either has learnt, and after the head has."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainables.models.backbones import build_backbone
from trainables.models.segmentor import Segmentor, build_segmentor
from trainables.recipe.recipe import Backbone, LinearHead, Optimizer, Recipe, Train, UPerNetHead
from trainables.training.optim import build_optimizer
from trainables.training.soup import estimate_batch_norms

NAMES = ["test_convnext", "test_resnet", "test_vit"]  # layer norms, batch norms, plain


def frozen(name: str) -> Segmentor:
    torch.manual_seed(0)
    return build_segmentor(Recipe(backbone=Backbone(name=name, pretrained=False, frozen=True), head=LinearHead()), 3)


def body(model: Segmentor) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.backbone.body.state_dict().items()}


@pytest.mark.parametrize("name", NAMES)
def test_features_are_those_of_a_backbone_that_has_not_learnt_yet(name: str) -> None:
    image, features = torch.randn(2, 3, 64, 96), []
    for frozen in (True, False):
        torch.manual_seed(0)
        features.append(build_backbone(Backbone(name=name, pretrained=False, frozen=frozen)).eval()(image))
    for one, other in zip(*features, strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_moves_what_comes_after_the_backbone_alone(name: str) -> None:
    model = frozen(name).train()
    before = body(model)
    optimizer = build_optimizer(model, Optimizer(lr=0.1))
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learning
    assert not any(name.startswith("backbone.body.") for name in learning)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(parameter) for name, parameter in model.named_parameters() if name in learning}
    optimizer.step()
    for key, tensor in body(model).items():  # statistics of batch norms included
        torch.testing.assert_close(tensor, before[key], rtol=0.0, atol=0.0)


def test_a_soup_leaves_the_statistics_of_a_frozen_backbone() -> None:
    backbone = Backbone(name="test_resnet", pretrained=False, frozen=True)
    recipe = Recipe(backbone=backbone, head=UPerNetHead(channels=8, aux_weight=0.0), train=Train(amp="off"))
    model = build_segmentor(recipe, 3).eval()
    before, head = body(model), model.head.fuse[1].running_mean.clone()
    estimate_batch_norms(model, [torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)], recipe, "cpu")
    for key, tensor in body(model).items():
        torch.testing.assert_close(tensor, before[key], rtol=0.0, atol=0.0)
    assert not model.head.fuse[1].running_mean.equal(head)
    assert not model.training
