from __future__ import annotations

import math

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay

from trainables.models.segmentor import build_segmentor
from trainables.recipe.recipe import Backbone, Optimizer, Recipe, SegFormerHead
from trainables.training.optim import FUSED, build_optimizer, build_schedule


def tiny_segmentor(name):
    recipe = Recipe(backbone=Backbone(name=name, pretrained=False), head=SegFormerHead(channels=16))
    return build_segmentor(recipe, 3)


def _by_name(model, optimizer, key):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group[key] for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet", "swinv2_cr_tiny_ns_224"])
def test_layers_learn_at_timms_rates_and_the_head_at_one(name):
    with torch.device("meta"):
        model = tiny_segmentor(name)
        scales = _by_name(model, build_optimizer(model, Optimizer(layer_decay=0.5)), "lr_scale")
        whole = timm.create_model(name)
    assert {scale for n, scale in scales.items() if n.startswith("head")} == {1.0}
    names = {id(parameter): n.replace(".", "_") for n, parameter in whole.named_parameters()}
    timms = {names[id(p)]: g["lr_scale"] for g in param_groups_layer_decay(whole, layer_decay=0.5) for p in g["params"]}
    ours = {
        n.removeprefix("backbone.body.").replace(".", "_"): scale
        for n, scale in scales.items()
        if n.startswith("backbone.body.")
    }
    assert max(ours.values()) == 0.5  # the backbone's last layer is one below the head
    factor = 0.5 / max(timms[n] for n in ours)
    assert ours == {n: pytest.approx(timms[n] * factor) for n in ours}


@pytest.mark.parametrize("layer_decay", [1.0, 0.9])
def test_norms_biases_and_tables_are_not_decayed(layer_decay):
    with torch.device("meta"):
        model = tiny_segmentor("swin_tiny_patch4_window7_224")
    decay = _by_name(
        model, build_optimizer(model, Optimizer(weight_decay=0.1, layer_decay=layer_decay)), "weight_decay"
    )
    assert set(decay) == {name for name, _ in model.named_parameters()}
    flat = {name for name, parameter in model.named_parameters() if parameter.ndim <= 1}
    tables = {name for name in decay if name.endswith("relative_position_bias_table")}
    assert tables
    assert {name for name, value in decay.items() if value == 0} == flat | tables
    assert set(decay.values()) == {0.0, 0.1}


def test_layer_decay_without_ordered_layers_is_an_error():
    with torch.device("meta"):
        model = tiny_segmentor("caformer_s18")
    with pytest.raises(ValueError, match="layer_decay needs a backbone whose layers timm orders"):
        build_optimizer(model, Optimizer(layer_decay=0.9))
    assert build_optimizer(model, Optimizer())


@pytest.mark.parametrize("name", ["adamw", "sgd", "nadamw", "lamb"])
def test_every_optimiser_makes_a_step(name):
    model = tiny_segmentor("test_convnext")
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = build_optimizer(model, Optimizer(name=name, layer_decay=0.9))
    build_schedule(optimizer, Optimizer(name=name), 1, 2)
    model(torch.rand(2, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    moved = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    assert sum(moved) > 0.9 * len(moved)


@pytest.mark.parametrize("name", FUSED)
def test_what_is_fused_on_a_gpu_takes_the_switch(name):
    """torch has the kernels for a CPU too."""
    plain, fused = (linear(), linear())
    for model, options in ((plain, {}), (fused, {"fused": True})):
        optimizer = create_optimizer_v2(model, opt=name, lr=0.1, **options)
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
    assert optimizer.defaults["fused"]
    torch.testing.assert_close(fused.weight, plain.weight)


def linear():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)


def test_schedule_follows_its_formula_and_keeps_the_scales():
    cfg = Optimizer(lr=0.1, layer_decay=0.5, warmup_epochs=1.5, min_lr_factor=0.1)
    optimizer = build_optimizer(tiny_segmentor("test_convnext"), cfg)
    schedule = build_schedule(optimizer, cfg, num_epochs=5, steps_per_epoch=4)
    head = next(g for g in optimizer.param_groups if g["lr_scale"] == 1.0)
    low = min(optimizer.param_groups, key=lambda g: g["lr_scale"])
    seen = []
    for update in range(21):
        assert low["lr"] == pytest.approx(head["lr"] * low["lr_scale"])
        seen.append(head["lr"])
        schedule.step_update(update + 1)
    wanted = [0.1 * (u + 1) / 7 for u in range(6)]
    wanted += [0.01 + 0.045 * (1 + math.cos(math.pi * t / 14)) for t in range(15)]
    assert seen == pytest.approx(wanted)


def test_schedule_of_one_epoch_can_be_all_warm_up():
    optimizer = build_optimizer(tiny_segmentor("test_convnext"), Optimizer())
    build_schedule(optimizer, Optimizer(lr=1e-4, warmup_epochs=1), 1, 3)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4 / 4)
