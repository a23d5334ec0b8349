"""EoMT: queries in a transformer's own blocks, masked attention, and its end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trainables.models.backbones import build_backbone
from trainables.models.heads import features_read
from trainables.models.heads.eomt import mask_probabilities
from trainables.models.open_vit import OpenBlocks
from trainables.models.segmentor import Segmentor
from trainables.recipe.recipe import Backbone, EomtHead, Recipe, Train

# class token and learnt positions; registers and rotary positions; rotary positions per block; patches of 14 px
BODIES = ("test_vit", "vit_small_patch16_dinov3", "vit_small_patch16_rope_mixed_224", "vit_small_patch14_dinov2")


def step_of(blocks: OpenBlocks, tokens: Tensor) -> Tensor:
    for block in blocks.blocks:
        tokens = block(tokens, None)
    return tokens


@pytest.mark.parametrize("name", BODIES)
def test_without_queries_the_open_blocks_are_the_model_s_own(name: str) -> None:
    outs = []
    image = torch.randn(1, 3, 64, 96)
    for num_open in (0, 3):
        torch.manual_seed(0)
        reads = features_read(EomtHead(num_blocks=max(1, num_open)))
        if not num_open:
            reads = type(reads)(depths=reads.depths)
        backbone = build_backbone(Backbone(name=name, pretrained=False), reads).eval()
        with torch.no_grad():
            found = backbone.body(image)
            if num_open:
                assert isinstance(found, OpenBlocks)
                found = [found.as_map(step_of(found, found.tokens)[:, found.num_prefix :])]
        outs.append(found[0])
    torch.testing.assert_close(*outs)


def test_queries_have_no_place_in_the_image() -> None:
    """Rotary positions turn patches alone: exchanged queries come out exchanged, and patches as before."""
    torch.manual_seed(0)
    reads = features_read(EomtHead(num_blocks=2))
    body = build_backbone(Backbone(name="vit_small_patch16_dinov3", pretrained=False), reads).eval().body
    with torch.no_grad():
        blocks = body(torch.randn(1, 3, 64, 96))
        before, patches = blocks.tokens[:, : blocks.num_prefix], blocks.tokens[:, blocks.num_prefix :]
        queries = torch.randn(1, 3, before.shape[2])
        one, other = (step_of(blocks, torch.cat([before, q, patches], 1)) for q in (queries, queries.flip(1)))
    first, last = blocks.num_prefix, blocks.num_prefix + 3
    torch.testing.assert_close(one[:, first:last], other[:, first:last].flip(1))
    torch.testing.assert_close(one[:, last:], other[:, last:])


def test_the_spans_are_the_authors() -> None:
    """Of 3 blocks, spans from 1/6 to 2/6, 2/6 to 3/6, 3/6 to 4/6 of the training, and (1 - t)^0.9 within them."""
    for progress, expected in ((0.0, [1, 1, 1]), (0.25, [0.5**0.9, 1, 1]), (5 / 12, [0, 0.5**0.9, 1]), (0.7, [0] * 3)):
        assert mask_probabilities(progress, 2 / 3, 3) == pytest.approx(expected)
    assert mask_probabilities(0.0, 0.0, 2) == [0.0, 0.0]


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_annealed_out_it_is_the_network_without_masks(small_model: Callable[..., Segmentor], progress: float) -> None:
    image, outs = torch.randn(2, 3, 64, 96), []
    for masked_until in (0.75, 0.0):
        model = small_model("test_vit", "eomt", masked_until=masked_until).train()
        model.anneal(progress)
        outs.append(model.forward_all(image).logits.detach())
    same = torch.allclose(*outs, atol=1e-5)
    assert same == (progress == 1.0)


def test_a_network_that_predicts_masks_nothing(small_model: Callable[..., Segmentor]) -> None:
    image, model = torch.randn(1, 3, 64, 96), small_model("test_vit", "eomt").eval()
    early, late = (model.anneal(progress) or model(image) for progress in (0.0, 1.0))
    assert torch.equal(early, late)


def test_a_masked_query_sees_its_own_patches_alone(small_model: Callable[..., Segmentor]) -> None:
    """A patch outside every mask, changed, changes no query in the block; inside, it does."""
    model = small_model("test_vit", "eomt", num_queries=5)
    blocks = model.backbone(torch.randn(1, 3, 64, 64))
    masks = torch.full((1, 5, 16, 16), -1.0)
    masks[:, :, :8] = 1.0  # of 4 x 4 patches the upper two rows
    mask = model.head._attention_mask(masks, blocks, torch.tensor(1.0))
    tokens = torch.cat([blocks.tokens[:, :1], model.head.queries[None], blocks.tokens[:, 1:]], 1).detach()
    changed = {}
    for patch in (0, 15):
        other = tokens.clone()
        other[:, 6 + patch] += 1.0
        changed[patch] = (blocks.blocks[0](other, mask) - blocks.blocks[0](tokens, mask))[:, 1:6].abs().max()
    assert changed[15] == 0.0
    assert changed[0] > 0.0


def test_half_of_the_queries_are_restricted_at_one_half(small_model: Callable[..., Segmentor]) -> None:
    model = small_model("test_vit", "eomt", num_queries=500)
    blocks = model.backbone(torch.randn(1, 3, 64, 64))
    mask = model.head._attention_mask(torch.full((1, 500, 16, 16), -1.0), blocks, torch.tensor(0.5))
    assert mask[0, 0, 1:501].isinf().any(1).float().mean() == pytest.approx(0.5, abs=0.1)
    assert not mask[0, 0, :1].isinf().any()
    assert not mask[0, 0, 501:].isinf().any()


def test_masks_have_to_end_before_the_last_epoch() -> None:
    with pytest.raises(
        ValueError, match=r"head.masked_until must leave the last of 3 epochs .* 0.75; use 0.66 or less"
    ):
        Recipe(backbone=Backbone(name="test_vit"), head=EomtHead(), train=Train(num_epochs=3))


def test_more_blocks_than_there_are_are_refused() -> None:
    with pytest.raises(
        ValueError, match="num_blocks must leave the backbone blocks of its own, of which it has 6, got 6"
    ):
        build_backbone(Backbone(name="test_vit", pretrained=False), features_read(EomtHead(num_blocks=6)))
