from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trainables.logits import predict_views
from trainables.logits.predict_views import Inference, at_label_size, view_logits
from trainables.logits.view import View
from trainables.models.segmentor import build_segmentor
from trainables.recipe.recipe import Backbone, Recipe, SegFormerHead


class FakeCache:
    """Images of given sizes, noise from a seed."""

    def __init__(self, **sizes):
        rng = np.random.default_rng(0)
        self.images = {name: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for name, size in sizes.items()}

    def image(self, image_id):
        return self.images[image_id]

    def size(self, image_id):
        return self.images[image_id].shape[:2]


class Pooling(nn.Module):
    """Logits = the image's own channels averaged over 4 x 4 px: what goes in can be read off."""

    mean, std, stride = (0.0, 0.5, 0.25), (1.0, 0.5, 0.25), 4

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, image):
        self.seen.append(tuple(image.shape))
        return F.avg_pool2d(image, 4)


ALL_VIEWS = [View(1.0, flip, turn) for flip in ("none", "horizontal", "vertical") for turn in (0, 90, 180, 270)]


def _run(model, cache, view, **kwargs):
    kwargs = {"short_px": None, "device": "cpu", "batch_size": 2, "amp": "off"} | kwargs
    return dict(view_logits(Inference(model, **kwargs), cache, tuple(cache.images), view))


@pytest.mark.parametrize("view", [View(), View(0.75, "horizontal"), View(1.25, "vertical"), View(1.0, "none", 90)])
def test_names_go_both_ways(view):
    assert View.parse(view.name) == view
    assert View().name == "s1.00-none"
    assert View(turn=270).name == "s1.00-r270-none"


def test_no_name_begins_with_another_and_a_dash():
    names = [view.name for view in ALL_VIEWS]
    assert len(set(names)) == 12
    assert not any(one.startswith(f"{other}-") for one in names for other in names)


@pytest.mark.parametrize("view", ALL_VIEWS, ids=lambda view: view.name)
def test_what_a_view_does_is_undone_and_equal_poses_are_one_picture(view):
    image = torch.arange(2 * 3 * 5).view(2, 3, 5)
    seen = view.apply(image)
    assert seen.shape == ((2, 5, 3) if view.turn in (90, 270) else (2, 3, 5))
    assert torch.equal(view.undo(seen), image)
    for other in ALL_VIEWS:
        assert (other.pose == view.pose) == (other.apply(image).tolist() == seen.tolist())


WRONG = ["s1-none", "s1.00-diagonal", "1.00-none", "s1.000-none", "s0.00-none", "s1.00-r0-none", "s1.00-r45-none"]


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_name_is_an_error(name):
    with pytest.raises(ValueError, match="a view"):
        View.parse(name)


def test_scales_that_their_name_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="two decimals"):
        View(0.333)


@pytest.mark.parametrize("view", ALL_VIEWS, ids=lambda view: view.name)
def test_logits_are_upright_normalised_and_exact(view):
    cache = FakeCache(a=(64, 96))
    model = Pooling()
    logits = _run(model, cache, view)["a"]
    assert model.seen == [(1, 3, 96, 64) if view.turn in (90, 270) else (1, 3, 64, 96)]
    image = torch.from_numpy(cache.image("a")).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (Pooling.mean, Pooling.std))
    wanted = F.avg_pool2d((image - mean) / std, 4)[0]
    assert logits.dtype == np.float16
    np.testing.assert_allclose(logits, wanted.numpy(), atol=2e-3)


@pytest.mark.parametrize(
    ("scale", "short_px", "size"),
    [(1.0, None, (64, 96)), (1.25, None, (96, 128)), (1.0, 32, (32, 32)), (0.5, 128, (64, 96))],
)
def test_a_view_has_the_nearest_multiple_of_32(scale, short_px, size):
    model = Pooling()
    logits = _run(model, FakeCache(a=(67, 100)), View(scale), short_px=short_px)["a"]
    assert model.seen == [(1, 3, *size)]
    assert logits.shape == (3, size[0] // 4, size[1] // 4)
    assert at_label_size(torch.from_numpy(logits)[None], (67, 100)).shape == (1, 3, 67, 100)


def test_equal_sizes_share_a_batch_and_every_image_comes_once():
    model = Pooling()
    cache = FakeCache(a=(64, 64), b=(32, 64), c=(64, 64), d=(60, 70), e=(32, 60))
    together = _run(model, cache, View())
    assert sorted(together) == list("abcde")
    assert sorted(model.seen) == [(1, 3, 64, 64), (2, 3, 32, 64), (2, 3, 64, 64)]
    alone = _run(Pooling(), cache, View(), batch_size=1)
    assert all(np.array_equal(together[name], alone[name]) for name in together)


class Small(Pooling):
    """On a device that holds `most` images at once."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def forward(self, image):
        logits = super().forward(image)
        if len(image) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return logits


def test_what_does_not_fit_goes_through_in_halves_from_then_on():
    cache = FakeCache(**{f"i{n:02}": (32, 32) for n in range(20)})
    model = Small(most=3)
    found = _run(model, cache, View(), batch_size=8)
    assert [shape[0] for shape in model.seen] == [8, 4, 2, 2, 2, 2, *[2] * 4, 2, 2]
    whole = _run(Pooling(), cache, View(), batch_size=8)
    assert all(np.array_equal(found[name], whole[name]) for name in whole)


def test_an_image_that_does_not_fit_alone_is_out_of_memory():
    with pytest.raises(torch.OutOfMemoryError):
        _run(Small(most=0), FakeCache(a=(32, 32)), View())


def test_the_model_keeps_its_mode_and_gets_no_gradient():
    recipe = Recipe(backbone=Backbone(name="test_convnext", pretrained=False), head=SegFormerHead(channels=16))
    model = build_segmentor(recipe, 3).train()
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    stream = view_logits(Inference(model, None, "cpu", 1, "bf16"), FakeCache(a=(32, 32)), ["a"], View())
    next(stream)
    assert torch.is_grad_enabled()  # the caller's own code between two images
    assert list(stream) == []
    assert model.training
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())


@pytest.mark.parametrize("view", [View(), View(1.0, "horizontal", 90)], ids=lambda view: view.name)
def test_the_model_sees_images_in_the_layout_of_its_device(view, monkeypatch):
    cache, model = FakeCache(a=(64, 96), b=(64, 96)), Laid()
    plain = _run(model, cache, view)
    monkeypatch.setattr(predict_views, "memory_layout", lambda device: torch.channels_last)
    as_on_a_gpu = _run(model, cache, view)
    assert model.layouts == [(True, False), (False, True)]  # plain, channels-last
    assert all(np.array_equal(plain[name], as_on_a_gpu[name]) for name in plain)


class Laid(Pooling):
    """Notes how its images lie in memory."""

    def __init__(self):
        super().__init__()
        self.layouts = []

    def forward(self, image):
        self.layouts.append((image.is_contiguous(), image.is_contiguous(memory_format=torch.channels_last)))
        return super().forward(image)


@pytest.mark.parametrize(("amp", "products"), [("off", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")])
def test_the_model_computes_float32_as_its_recipe_says(amp, products):
    seen = []

    class Model(Pooling):
        def forward(self, image):
            seen.append(torch.backends.cuda.matmul.fp32_precision)
            return super().forward(image)

    _run(Model(), FakeCache(a=(32, 32)), View(), amp=amp)
    assert seen == [products]
