"""Recipe rules, found before a trial meets them and told by YAML path."""

from __future__ import annotations

import pytest

from search.space.nodes import Choice, Range
from search.space.problems import SpaceProblems
from search.space.recipe_checks import middle
from search.space.space import load_space

BRANCHES = "model.head={choice: {segformer: {}, upernet: {channels: {int: [4, 64]}}}}"


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("augmentation.crop_px=500", "augmentation.crop_px: must be divisible by 32, got 500; use 480 or 512"),
        (
            "augmentation.crop_px={choice: [512, 500]}",
            "augmentation.crop_px: must be divisible by 32, got 500; use 480 or 512",
        ),
        ("augmentation.crop_px={int: [512, 640]}", "augmentation.crop_px: must be divisible by 32, got 513"),
        ("train={batch_size: {int: [6, 8]}, accumulate: 2}", "train.accumulate: must divide batch_size, got 2 and 7"),
        ("train={batch_size: {float: [4, 8]}, accumulate: 1}", "train.batch_size: must be a whole number"),
        ("augmentation.hflip_p={float: [0, 1.5]}", "augmentation.hflip_p: must be less than or equal to 1, got 1.5"),
        ("optimizer.lr=fast", "optimizer.lr: must be a valid number"),
        (
            "train.amp=bf1",
            "train.amp: must be 'auto', 'bf16', 'fp16', 'tf32' or 'off', got 'bf1'; did you mean 'bf16'?",
        ),
        (
            BRANCHES,
            "model.head.choice.upernet.channels: must be greater than or equal to 8, got 4; use 8 (and 3 more",
        ),
        (
            "augmentation.elastic.PiecewiseAffine.p={float: [0, 1.5]}",
            "augmentation.elastic.PiecewiseAffine.p: must be less than or equal to 1, got 1.5",
        ),
        ("augmentation.mosaic.p=-0.1", "augmentation.mosaic.p: must be greater than or equal to 0, got -0.1; use 0"),
        (
            "augmentation.geometric.Afine={p: 0.5}",
            "augmentation.geometric.Afine: unknown key; did you mean 'Affine'?",
        ),
        (
            "augmentation.colour.RGBShift={p: 0.5}",
            "augmentation.colour.RGBShift: unknown key; it belongs under augmentation.colour.channels",
        ),
        (
            "augmentation.copy_paste={scale_min: 2.0, scale_max: 1.0}",
            "augmentation.copy_paste.scale_min: must not exceed scale_max",
        ),
        ("augmentation.preset=convnext", "augmentation.preset: must be 'none', 'convnext_knet'"),
        ("model.drop_path={float: [0, 2]}", "model.drop_path: must be less than or equal to 1, got 2.0"),
    ],
)
def test_a_rule_that_some_recipe_breaks(override: str, problem: str) -> None:
    with pytest.raises(SpaceProblems) as caught:
        load_space("convnext.yaml", overrides=[override])
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(problem)


def test_two_ranges_that_are_fine_alone_and_not_together() -> None:
    # the middles are 1.0 and 1.5: each end alone keeps scale_min below scale_max
    override = "augmentation={scale_min: {float: [0.5, 1.5]}, scale_max: {float: [1.0, 2.0]}}"
    with pytest.raises(SpaceProblems, match=r"scale_min: must not exceed scale_max, got 1.5 and 1.0"):
        load_space("convnext.yaml", overrides=[override])


@pytest.mark.parametrize("frozen", ["true", "{choice: [false, true]}"])
@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("optimizer={layer_decay: {choice: [1.0, 0.9]}}", "optimizer.layer_decay: must be 1 with a frozen backbone"),
        ("train={grad_checkpointing: {choice: [false, true]}, batch_size: 8}", "train.grad_checkpointing: must be fal"),
        ("model={drop_path: {choice: [0.0, 0.1]}}", "model.drop_path: must be 0 with frozen: true, got 0.1; use 0"),
    ],
)
def test_what_a_frozen_backbone_would_ignore_is_refused(frozen: str, section: str, problem: str) -> None:
    free = ["model.drop_path=0.0", "optimizer.layer_decay=1.0"]
    with pytest.raises(SpaceProblems) as caught:
        load_space("convnext.yaml", overrides=[*free, f"model.frozen={frozen}", section])
    assert [line[: len(problem)] for line in caught.value.problems] == [problem]
    load_space("convnext.yaml", overrides=[*free, f"model.frozen={frozen}"])


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "{frozen: true, frozen_stages: {int: [0, 2]}}",
            "model.frozen_stages: must be 0 with frozen: true",
        ),
        (
            "{lora_rank: 4, frozen_stages: 2}",
            "model.frozen_stages: must be 0 with lora_rank 4, which",
        ),
        (
            "{frozen: {choice: [true, false]}, lora_rank: {choice: [0, 4]}}",
            "model.lora_rank: must be 0 with frozen",
        ),
        ("{lora_alpha: 8.0}", "model.lora_alpha: must be left out without a lora_rank, got 8.0; set lora_rank to 8 or"),
    ],
)
def test_two_ways_of_keeping_weights_are_refused(override: str, problem: str) -> None:
    free = ["model.drop_path=0.0", "optimizer.layer_decay=1.0"]
    with pytest.raises(SpaceProblems) as caught:
        load_space("vit.yaml", overrides=[*free, f"model={override}"])
    assert [line[: len(problem)] for line in caught.value.problems] == [problem]


def test_masks_that_last_to_the_end_are_refused() -> None:
    head = "model.head={choice: {segmenter: , eomt: {masked_until: {float: [0.5, 0.9]}}}}"
    names = "model.backbone={choice: [vit_small_patch16_224.augreg_in21k]}"
    path = r"model\.head\.choice\.eomt\.masked_until: must leave the last of 5 epochs without masks, got 0.9; use 0.8"
    with pytest.raises(SpaceProblems, match=path):
        load_space("vit.yaml", overrides=[names, head, "search={max_epochs: 5, grace_epochs: 1}"])


def test_a_faulty_field_does_not_hide_the_other_rules_of_its_section() -> None:
    with pytest.raises(SpaceProblems) as caught:
        load_space("convnext.yaml", overrides=["augmentation={hflip_p: 2, crop_px: 100, scale_min: 3}"])
    paths = [problem.split(":")[0] for problem in caught.value.problems]
    assert paths == ["augmentation.hflip_p", "augmentation.crop_px", "augmentation.scale_min"]


@pytest.mark.parametrize(
    ("kind", "low", "high", "expected"),
    [("float", 0.0, 1.0, 0.5), ("log", 1e-5, 1e-3, 1e-4), ("int", 1, 4, 2), ("float", 0.12341, 0.12344, 0.12341)],
)
def test_the_middle_of_a_range(kind: str, low: float, high: float, expected: float) -> None:
    assert middle(Range((), "p", kind, low, high)) == expected  # type: ignore[arg-type]


def test_the_default_of_a_choice_is_its_first_item() -> None:
    assert middle(Choice((), "p", ([3, 4], [1, 2]))) == [3, 4]


def test_every_operator_s_field_can_be_searched() -> None:
    searched = [
        "augmentation.preset={choice: [none, convnext_knet, swin_knet, beit, copy_paste]}",
        "augmentation.geometric.Affine={p: {float: [0, 1]}, rotate_limit_deg: {float: [0, 45]}}",
        "augmentation.elastic={one_of: {choice: [true, false]}, ElasticTransform: {alpha: {log: [10, 200]}}}",
        "augmentation.policy={choice: {none: , trivial_augment: , rand_augment: {num_ops: {int: [1, 3]}}}}",
        "augmentation.copy_paste={p: {float: [0.0, 0.7]}, rare_class_weight: {float: [0, 2]}}",
        "augmentation.mosaic={p: {float: [0.0, 0.5]}}",
    ]
    space = load_space("convnext.yaml", overrides=searched)
    names = {parameter.name for parameter in space.parameters()}
    assert {
        "augmentation/preset",
        "augmentation/geometric/Affine/rotate_limit_deg",
        "augmentation/elastic/ElasticTransform/alpha",
        "augmentation/policy/name",
        "augmentation/policy/rand_augment/num_ops",
        "augmentation/copy_paste/rare_class_weight",
        "augmentation/mosaic/p",
    } <= names


def test_a_crop_larger_than_the_images_is_refused_with_its_path() -> None:
    space = load_space("convnext.yaml", overrides=["augmentation.crop_px={choice: [512, 1280]}"])
    with pytest.raises(SpaceProblems, match=r"augmentation.crop_px: must not be larger than the images, got 1280"):
        space.check_data([(512, 512), (480, 360)], 3)
    space.check_data([(512, 640)], 3)


@pytest.mark.parametrize(
    ("queries", "path"),
    [
        ("{num_queries: {int: [10, 20]}}", "model.head.choice.mask_classification.num_queries: must be at least the"),
        ("", "model.head.choice.mask_classification: num_queries must be at least the"),
    ],
)
def test_fewer_queries_than_classes_are_refused_with_their_path(queries: str, path: str) -> None:
    space = load_space(
        "convnext.yaml", overrides=[f"model.head={{choice: {{upernet: , mask_classification: {queries}}}}}"]
    )
    with pytest.raises(SpaceProblems) as caught:
        space.check_data([(512, 640)], 101)
    assert caught.value.problems[0].startswith(f"{path} number of classes, 101, got ")
    space.check_data([(512, 640)], 10)


def test_an_operator_that_starves_a_gpu_is_told_of() -> None:
    override = "augmentation.elastic.PiecewiseAffine={p: {float: [0, 0.3]}, exact: {choice: [false, true]}}"
    (line,) = load_space("convnext.yaml", overrides=[override]).warnings()
    assert line.startswith("augmentation.elastic.PiecewiseAffine: takes about 1080 ms per sample on average")
    assert load_space("convnext.yaml").warnings() == []
