from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from trainables.data.augment.train_set import Batch
from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.index import Split
from trainables.data.reader import read
from trainables.data.splits.make_split import make_split
from trainables.data.synthetic.dataset import write_synthetic
from trainables.logits.predict_views import Inference, at_label_size, view_logits
from trainables.logits.view import View
from trainables.metrics import confusion, miou
from trainables.models.segmentor import Segmentor, build_segmentor
from trainables.models.weights_file import load_weights
from trainables.recipe.augmentation import Augmentation
from trainables.recipe.recipe import Backbone, EomtHead, Loss, Optimizer, Recipe, SegFormerHead, Train, UPerNetHead
from trainables.training import attempt as attempt_module
from trainables.training import epoch as epoch_module
from trainables.training import training_step as step_module
from trainables.training.checkpoint import load_state, read_snapshot, snapshots
from trainables.training.epoch import update
from trainables.training.fit import Diverged, OutOfMemory, Trial, fit
from trainables.training.losses import build_loss
from trainables.training.state import prepare, steps_per_epoch


@pytest.fixture(scope="module")
def card_path(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("synthetic") / "set", num_images=18, image_px=64, seed=0)


@pytest.fixture(scope="module")
def data(card_path, tmp_path_factory):
    index = read(read_card(card_path))
    return Cache.open(index, tmp_path_factory.mktemp("cache")), make_split(index, seed=0)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe_of(*, backbone=None, head=None, aug=None, loss=None, optimizer=None, seed=3, **train):
    train = {"num_epochs": 2, "batch_size": 2, "num_workers": 0} | train
    return Recipe(
        backbone=backbone or Backbone(name="test_convnext", pretrained=False, drop_path=0.2),
        head=head or SegFormerHead(channels=16),
        augmentation=Augmentation(**({"crop_px": 32} | (aug or {}))),
        loss=loss or Loss(),
        optimizer=optimizer or Optimizer(lr=1e-3),
        train=Train(**train),
        seed=seed,
    )


def trial_of(recipe, data, out_dir=None, snapshots=0):
    return Trial(recipe, *data, out_dir, "cpu", snapshots)


def run(recipe, data, out_dir, snapshots=0, **kwargs):
    reports = []
    last = fit(trial_of(recipe, data, out_dir, snapshots), reports.append, **kwargs)
    return last, reports


def _timeless(metrics):
    return {key: value for key, value in metrics.items() if key != "images_per_s"}


def test_a_run_reports_every_epoch_and_learns(data, tmp_path):
    ticks = iter(range(100))
    recipe = recipe_of(num_epochs=6, optimizer=Optimizer(lr=1e-2, warmup_epochs=0))
    last, reports = run(recipe, data, tmp_path, clock=lambda: float(next(ticks)))
    assert [r.epoch for r in reports] == [r.metrics["epoch"] for r in reports] == [1, 2, 3, 4, 5, 6]
    assert reports[-1].metrics["train/loss"] < reports[0].metrics["train/loss"]
    assert last == reports[-1].metrics
    assert set(last) == {
        *("train/loss", "val/loss", "val/miou", "val/iou", "lr", "images_per_s", "epoch"),
        *("best/miou", "best/epoch", "diverged", "accumulate"),
    }
    assert last["images_per_s"] == len(data[1].train_ids) // 2 * 2  # in one tick
    assert last["best/miou"] == max(r.metrics["val/miou"] for r in reports)
    assert len(last["val/iou"]) == data[0].index.num_classes
    assert last["diverged"] == 0


def test_val_miou_is_that_of_the_best_weights_view_logits(data, tmp_path):
    recipe = recipe_of(aug={"short_px": 48}, ema_decay=0.9)
    cache, split = data
    _, reports = run(recipe, data, tmp_path)
    folder = reports[-1].checkpoint_dir
    about = json.loads((folder / "best.json").read_text())
    model = build_segmentor(Recipe.model_validate(about["recipe"]), len(about["classes"]))
    model.load_state_dict(load_weights(folder / "best.safetensors"))
    conf = np.zeros((len(about["classes"]),) * 2, np.int64)
    for image_id, logits in view_logits(Inference(model, 48, "cpu", 3, "off"), cache, split.val_ids, View()):
        true = cache.label(image_id)
        full = at_label_size(torch.from_numpy(logits)[None], true.shape)
        conf += confusion(true, full[0].argmax(0).numpy().astype(np.uint8), len(conf))
    assert float(miou(conf)) == about["miou"] == reports[about["epoch"] - 1].metrics["val/miou"]
    assert about["data_fingerprint"] == cache.index.fingerprint
    assert about["split_fingerprint"] == split.fingerprint


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"ema_decay": None, "optimizer": Optimizer(name="sgd", lr=0.01, layer_decay=0.8), "num_workers": 1},
        {"head": UPerNetHead(channels=8, aux_channels=8), "accumulate": 2, "amp": "bf16"},
        {
            "backbone": Backbone(name="test_vit", pretrained=False, lora_rank=4),
            "head": EomtHead(channels=8, num_queries=11, num_blocks=2),
        },
    ],
    ids=["plain", "sgd-worker", "upernet-bf16", "eomt-lora"],
)
def test_a_resumed_trial_ends_as_an_uninterrupted_one(data, tmp_path, variant):
    recipe = recipe_of(**({"num_epochs": 4} | variant))

    class Stop(Exception):
        pass

    def stop_after_two(done):
        shutil.copytree(done.checkpoint_dir, tmp_path / f"kept-{done.epoch}")
        if done.epoch == 2:
            raise Stop

    whole, reports = run(recipe, data, tmp_path / "whole", snapshots=3)
    with pytest.raises(Stop):
        fit(trial_of(recipe, data, tmp_path / "cut", 3), stop_after_two)
    torch.manual_seed(99)
    (tmp_path / "resumed").mkdir()
    (tmp_path / "resumed" / "snapshot-0009.safetensors").write_bytes(b"of a trial that used this folder before")
    resumed, rest = run(recipe, data, tmp_path / "resumed", resume_from=tmp_path / "kept-2", snapshots=3)
    assert [_timeless(r.metrics) for r in rest] == [_timeless(r.metrics) for r in reports[2:]]
    assert _timeless(resumed) == _timeless(whole)
    a, b = load_state(rest[-1].checkpoint_dir), load_state(reports[-1].checkpoint_dir)
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
    names = ["best.safetensors", *(f"snapshot-{epoch:04d}.safetensors" for epoch in (2, 3, 4))]
    for folder in (rest[-1].checkpoint_dir, reports[-1].checkpoint_dir):
        assert sorted(path.name for path in folder.glob("*.safetensors")) == names
    for name in names:
        a, b = ((r[-1].checkpoint_dir / name).read_bytes() for r in (rest, reports))
        assert a == b


def test_a_snapshot_holds_the_evaluated_weights_of_its_epoch(data, tmp_path):
    _, reports = run(recipe_of(num_epochs=3, ema_decay=0.5), data, tmp_path, snapshots=2)
    assert [len(snapshots(r.checkpoint_dir)) for r in reports] == [1, 2, 2]
    for report in reports[1:]:
        path = snapshots(report.checkpoint_dir)[-1]
        assert read_snapshot(path) == (report.epoch, report.metrics["val/miou"])
        ema, weights = load_state(report.checkpoint_dir)["ema"], load_weights(path)
        assert all(torch.equal(weights[name], ema[name]) for name in ema)


def test_equal_seeds_give_equal_numbers_and_others_do_not(data, tmp_path):
    first, _ = run(recipe_of(num_epochs=1), data, tmp_path / "a")
    again, _ = run(recipe_of(num_epochs=1), data, tmp_path / "b")
    other, _ = run(recipe_of(num_epochs=1, seed=4), data, tmp_path / "c")
    assert _timeless(first) == _timeless(again)
    assert first["train/loss"] != other["train/loss"]


def test_a_finished_trial_resumes_to_its_last_metrics(data, tmp_path):
    recipe = recipe_of(num_epochs=1)
    last, reports = run(recipe, data, tmp_path)
    again, more = run(recipe, data, tmp_path / "new", resume_from=reports[-1].checkpoint_dir)
    assert again == last
    assert more == []


@pytest.mark.parametrize(("other", "key"), [({"seed": 9}, "recipe"), ({"split": "x"}, "split")])
def test_another_trials_checkpoint_is_refused(data, tmp_path, other, key):
    _, reports = run(recipe_of(num_epochs=1), data, tmp_path)
    cache, split = data
    split = Split(split.train_ids, split.val_ids, split.holdout_ids, other.pop("split", split.fingerprint))
    with pytest.raises(ValueError, match=f"own checkpoint only: {key} must be"):
        run(
            recipe_of(num_epochs=1, **other),
            (cache, split),
            tmp_path / "b",
            resume_from=reports[-1].checkpoint_dir,
        )


@pytest.mark.parametrize("where", ["train", "val"])
def test_a_diverged_trial_ends_at_once_and_keeps_its_best(data, tmp_path, monkeypatch, where):
    forward, calls = Segmentor.forward_all, []
    updates = steps_per_epoch(recipe_of(), data[1])

    def breaks(self, image):
        outputs = forward(self, image)
        calls.append(self.training)
        breaks_now = calls.count(True) > updates and self.training == (where == "train")  # in the second epoch
        return type(outputs)(outputs.logits * (math.nan if breaks_now else 1.0), [])

    monkeypatch.setattr(Segmentor, "forward_all", breaks)
    reports = []
    with pytest.raises(Diverged, match="loss was nan"):
        fit(trial_of(recipe_of(num_epochs=9), data, tmp_path), reports.append)
    assert len(reports) == 2
    assert calls.count(True) == updates * (1 if where == "train" else 2) + (where == "train")
    last = reports[-1]
    assert (last.metrics["diverged"], last.metrics["val/miou"], last.metrics["epoch"]) == (1, 0.0, 2)
    assert last.metrics["best/epoch"] == 1
    assert set(last.metrics) == set(reports[0].metrics)
    assert sorted(path.name for path in last.checkpoint_dir.iterdir()) == ["best.json", "best.safetensors"]


def test_a_trial_that_never_had_a_score_diverges_too(data, tmp_path):
    reports = []
    for name in ("best.safetensors", "snapshot-0007.safetensors"):
        (tmp_path / name).write_bytes(b"of a trial that used this folder before")
    recipe = recipe_of(optimizer=Optimizer(lr=1e30, clip_norm=None, warmup_epochs=0), num_epochs=3)
    with pytest.raises(Diverged):
        fit(trial_of(recipe, data, tmp_path), reports.append)
    assert reports[0].metrics["best/miou"] == 0.0
    assert list(reports[0].checkpoint_dir.iterdir()) == []


def test_accumulated_gradients_are_the_whole_batchs(data):
    generator = torch.Generator().manual_seed(0)
    image, label = (
        torch.randn(4, 3, 32, 32, generator=generator),
        torch.randint(0, 11, (4, 32, 32), generator=generator),
    )
    label[0, 4:], label[3] = 255, 255  # parts of unequal weight, and one of none
    after = []
    for parts in (1, 2, 4):
        recipe = recipe_of(batch_size=4, accumulate=parts, optimizer=Optimizer(name="sgd", lr=0.1), ema_decay=None)
        state, loss = prepare(trial_of(recipe, data), None, resume_from=None)
        state.model.eval()  # batch norm and dropout see other batches
        total = update(state, Batch(image, label, torch.arange(4)), loss, recipe, None)
        after.append([total, *(p.detach() for p in state.model.parameters())])
    for other in after[1:]:
        torch.testing.assert_close(other, after[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_low_precision_asked_for_on_the_cpu_is_honoured(data, tmp_path, monkeypatch, amp):
    seen = []
    forward = Segmentor.forward_all

    def spy(self, image):
        outputs = forward(self, image)
        seen.append((self.training, outputs.logits.dtype))
        return outputs

    monkeypatch.setattr(Segmentor, "forward_all", spy)
    last, _ = run(recipe_of(num_epochs=1, amp=amp), data, tmp_path)
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    assert set(seen) == {(True, low), (False, torch.float32)}  # of what is predicted, the last step alone is exact
    assert math.isfinite(last["val/loss"])


def test_gradients_are_clipped(data):
    recipe = recipe_of(optimizer=Optimizer(name="sgd", lr=1.0, clip_norm=1e-3, weight_decay=0, warmup_epochs=0))
    state, loss = prepare(trial_of(recipe, data), None, resume_from=None)
    before = [p.detach().clone() for p in state.model.parameters()]
    batch = Batch(torch.randn(4, 3, 32, 32), torch.zeros(4, 32, 32, dtype=torch.int64), torch.arange(4))
    update(state, batch, loss, recipe, None)
    step = torch.cat([(new - old).flatten() for old, new in zip(before, state.model.parameters(), strict=True)])
    assert 0.5e-3 < step.norm() < 2e-3  # Nesterov momentum makes 1.9 of 1


def test_class_weights_come_from_the_train_split(data):
    cache, split = data
    recipe = recipe_of(loss=Loss(class_weights="inverse_sqrt"))
    _, loss = prepare(trial_of(recipe, data), None, resume_from=None)
    wanted = build_loss(recipe.loss, cache.index.num_classes, cache.class_pixels(split.train_ids))
    torch.testing.assert_close(loss.class_weight, wanted.class_weight)


def test_a_batch_larger_than_the_train_split_is_an_error(data, tmp_path):
    with pytest.raises(ValueError, match="batch_size must not exceed the train split's images, got 99 and"):
        run(recipe_of(batch_size=99), data, tmp_path)


def test_a_full_device_is_told_with_what_filled_it(data, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(epoch_module, "to_batch", full)
    with pytest.raises(OutOfMemory, match=r"batch_size 2 .*crop_px 32 and backbone test_convnext"):
        run(recipe_of(), data, tmp_path)


class Device:
    """Holds micro-batches of `largest` images; `full_at` counts the training passes that it refuses anyway."""

    def __init__(self, monkeypatch, largest):
        self.largest, self.sizes, self.refused = largest, [], 0
        forward = Segmentor.forward_all

        def holds(model, image):
            if model.training:
                self.sizes.append(len(image))
                if len(image) > self.largest:
                    self.refused += 1
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")
            return forward(model, image)

        monkeypatch.setattr(Segmentor, "forward_all", holds)


def test_a_batch_that_does_not_fit_is_halved_and_the_run_is_that_of_halved_batches(data, tmp_path, monkeypatch):
    wanted, _ = run(recipe_of(batch_size=4, accumulate=4), data, tmp_path / "small")
    device = Device(monkeypatch, largest=1)
    last, reports = run(recipe_of(batch_size=4), data, tmp_path / "large")
    assert device.refused == 2
    assert set(device.sizes[2:]) == {1}
    assert _timeless(last) == _timeless(wanted)
    assert [r.metrics["accumulate"] for r in reports] == [4, 4]
    assert not (tmp_path / "large" / "last").exists()


def test_a_device_that_fills_up_later_costs_the_epoch_and_no_more(data, tmp_path, monkeypatch):
    device = Device(monkeypatch, largest=2)
    updates = steps_per_epoch(recipe_of(), data[1])
    reports = []

    def fills_up(done):
        reports.append(done)
        shutil.rmtree(done.checkpoint_dir)  # its owner's right
        device.largest = 1

    fit(trial_of(recipe_of(num_epochs=3), data, tmp_path), fills_up)
    assert [(r.epoch, r.metrics["accumulate"]) for r in reports] == [(1, 1), (2, 2), (3, 2)]
    assert device.sizes == [2] * (updates + 1) + [1] * 4 * updates
    assert (tmp_path / "best.safetensors").exists()


def test_halving_changes_nothing_beyond_rounding(data, tmp_path, monkeypatch):
    quiet = {"optimizer": Optimizer(lr=1e-3), "batch_size": 4}  # batch norms see parts: SegFormer's one is left out
    recipe = recipe_of(**quiet).model_copy(update={"head": SegFormerHead(channels=16, dropout=0.0)})
    recipe = recipe.model_copy(update={"backbone": Backbone(name="test_convnext", pretrained=False)})
    monkeypatch.setattr(torch.nn.BatchNorm2d, "forward", lambda self, x: x)
    whole, _ = run(recipe, data, tmp_path / "whole")
    Device(monkeypatch, largest=2)
    halved, _ = run(recipe, data, tmp_path / "halved")
    assert halved["accumulate"] == 2
    for key in ("train/loss", "val/loss", "val/miou"):
        assert halved[key] == pytest.approx(whole[key], abs=1e-4)


class NarrowInValidation:
    """A device with room for training, and for `most` images at once in validation."""

    def __init__(self, monkeypatch, most):
        self.num_training = 0
        forward = Segmentor.forward_all

        def holds(model, image):
            self.num_training += model.training
            if not model.training and len(image) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")
            return forward(model, image)

        monkeypatch.setattr(Segmentor, "forward_all", holds)


def test_a_validation_that_does_not_fit_costs_neither_the_epoch_nor_the_micro_batches(data, tmp_path, monkeypatch):
    wanted, _ = run(recipe_of(num_epochs=1), data, tmp_path / "whole")
    device = NarrowInValidation(monkeypatch, most=1)
    found, _ = run(recipe_of(num_epochs=1), data, tmp_path / "halves")
    assert device.num_training == steps_per_epoch(recipe_of(), data[1])
    assert found["accumulate"] == 1
    assert found["val/miou"] == pytest.approx(wanted["val/miou"], abs=1e-4)


def test_an_image_of_val_that_does_not_fit_is_told_at_once(data, tmp_path, monkeypatch):
    device = NarrowInValidation(monkeypatch, most=0)
    with pytest.raises(OutOfMemory, match=r"on one image of val .*short_px None; use a smaller short_px .*2 GiB\)"):
        run(recipe_of(), data, tmp_path)
    assert device.num_training == steps_per_epoch(recipe_of(), data[1])


@pytest.mark.parametrize("amp", ["off", "tf32"])
def test_a_step_computes_float32_as_its_recipe_says(data, tmp_path, monkeypatch, amp):
    seen, backward = set(), torch.Tensor.backward

    def noted(*args, **kwargs):
        seen.add(torch.backends.cuda.matmul.fp32_precision)
        return backward(*args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", noted)
    run(recipe_of(num_epochs=1, amp=amp), data, tmp_path)
    assert seen == {"tf32" if amp == "tf32" else "ieee"}


def test_recomputed_activations_give_the_same_gradients(data, tmp_path):
    plain, _ = run(recipe_of(num_epochs=1), data, tmp_path / "plain")
    recomputed, _ = run(recipe_of(num_epochs=1, grad_checkpointing=True), data, tmp_path / "recomputed")
    for key in ("train/loss", "val/loss", "val/miou"):
        assert recomputed[key] == pytest.approx(plain[key], abs=1e-5)


COMPILED = {
    "plain": {},
    "eomt-lora": {
        "backbone": Backbone(name="test_vit", pretrained=False, lora_rank=4),
        "head": EomtHead(channels=8, num_queries=11, num_blocks=2, masked_until=0.5),
        "num_epochs": 2,
    },
}


@pytest.mark.parametrize(
    ("back_end", "variant"),
    [*(("aot_eager", variant) for variant in COMPILED), pytest.param("inductor", "plain", marks=pytest.mark.slow)],
)
def test_a_compiled_trial_is_the_same_but_for_rounding(data, tmp_path, monkeypatch, back_end, variant):
    """And compiled once: EoMT's masks change from update to update by a tensor's values, which the graph reads."""
    compile_with, counter = torch.compile, CompileCounterWithBackend(back_end)
    seen = []

    def spy(step, **kwargs):
        seen.append(kwargs)
        return compile_with(step, **(kwargs if back_end == "inductor" else {"dynamic": False, "backend": counter}))

    both = {"num_epochs": 1} | COMPILED[variant]
    eager, reports = run(recipe_of(**both), data, tmp_path / "eager")
    monkeypatch.setattr(torch, "compile", spy)
    monkeypatch.setattr(step_module, "_what_compiling_lacks", lambda device_type: "")
    quick, quick_reports = run(recipe_of(**both, compile=True), data, tmp_path / "compiled")
    assert seen == [{"dynamic": False, "options": {"fallback_random": True}}]
    assert counter.frame_count == (back_end != "inductor")
    for key in ("train/loss", "val/loss", "val/miou"):
        assert quick[key] == pytest.approx(eager[key], abs=1e-4)
    ours, plain = (load_state(r[-1].checkpoint_dir)["model"] for r in (quick_reports, reports))
    assert list(ours) == list(plain)


def test_a_machine_that_cannot_compile_says_so_and_goes_on(monkeypatch, caplog):
    def fails(*args, **kwargs):
        raise RuntimeError("no working C++ compiler found")

    monkeypatch.setattr(torch, "compile", fails)
    step_module._what_compiling_lacks.cache_clear()
    step = torch.nn.Identity()
    assert step_module.compiled(step, "cpu") is step
    assert "train.compile has no effect on this machine: RuntimeError: no working C++ compiler" in caplog.text
    step_module._what_compiling_lacks.cache_clear()


def test_every_trial_of_a_worker_is_compiled(monkeypatch):
    compile_with, graphs = torch.compile, []

    def counting(graph, example_inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)  # torch's own; to import timm.optim raises it
    monkeypatch.setattr(step_module, "_what_compiling_lacks", lambda device_type: "")
    monkeypatch.setattr(torch, "compile", lambda step, **kwargs: compile_with(step, backend=counting, dynamic=False))

    class Step(torch.nn.Module):
        def __init__(self, width):
            super().__init__()
            self.layer = torch.nn.Linear(width, 1)

        def forward(self, x):
            return self.layer(x)

    steps = [Step(width) for width in range(1, 13)]  # all kept: torch forgets what it compiled of a step that is gone
    for width, step in enumerate(steps, start=1):
        step_module.compiled(step, "cpu")(torch.ones(1, width))
    assert len(graphs) == len(steps)


def test_workers_end_when_the_callback_raises(data, tmp_path, monkeypatch):
    stopped = []
    real = attempt_module.stop_workers
    monkeypatch.setattr(attempt_module, "stop_workers", lambda loader: (stopped.append(loader), real(loader)))

    def fails(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(trial_of(recipe_of(num_workers=1), data, tmp_path), fails)
    assert len(stopped) == 1
