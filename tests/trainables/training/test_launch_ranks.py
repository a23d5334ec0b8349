"""Two processes train as one does. Each starts its own interpreter, so the runs are few and shared."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import shutil
import threading
import time

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.reader import read
from trainables.data.splits.make_split import make_split
from trainables.data.synthetic.dataset import write_synthetic
from trainables.models.segmentor import build_segmentor
from trainables.ranks import Ranks, joined
from trainables.recipe.augmentation import Augmentation
from trainables.recipe.recipe import Backbone, LinearHead, Loss, Optimizer, Recipe, Train, UPerNetHead
from trainables.training import launch_ranks
from trainables.training.attempt import DoesNotFit
from trainables.training.checkpoint import load_state
from trainables.training.epoch import Diverged
from trainables.training.fit import Trial, fit
from trainables.training.launch_ranks import RankFailed
from trainables.training.losses import build_loss
from trainables.training.sync_batch_norm import CpuSyncBatchNorm, synchronise
from trainables.training.training_step import TrainingStep, compiled

# curves of one and two processes: gradients add in another order
ROUNDING = 1e-4


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    card = write_synthetic(tmp_path_factory.mktemp("synthetic") / "set", num_images=18, image_px=64, seed=0)
    index = read(read_card(card))
    return Cache.open(index, tmp_path_factory.mktemp("cache")), make_split(index, seed=0)


def recipe_of(**train):
    """Batch norms in the head, and nothing whose random masks a rank draws for itself."""
    return Recipe(
        backbone=Backbone(name="test_convnext", pretrained=False),
        head=UPerNetHead(channels=8, aux_channels=8, dropout=0.0),
        augmentation=Augmentation(crop_px=64),
        optimizer=Optimizer(lr=2e-3, warmup_epochs=0),  # small steps: large ones amplify rounding
        train=Train(**({"num_epochs": 3, "batch_size": 4, "accumulate": 2, "num_workers": 0, "amp": "off"} | train)),
        seed=3,
    )


def run(data, out_dir, recipe=None, **kwargs):
    reports = []

    def keep(done):
        reports.append(done)
        shutil.copytree(done.checkpoint_dir, out_dir / f"kept-{done.epoch}")

    fit(Trial(recipe or recipe_of(), *data, out_dir, "cpu"), keep, **kwargs)
    return reports


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums of several threads add in another order, and epochs amplify the difference."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    out_dir = tmp_path_factory.mktemp("alone")
    return run(data, out_dir), out_dir


@pytest.fixture(scope="module")
def together(data, tmp_path_factory):
    out_dir = tmp_path_factory.mktemp("together")
    return run(data, out_dir, num_ranks=2), out_dir


def assert_same_curve(ours, theirs):
    assert [done.epoch for done in ours] == [done.epoch for done in theirs]
    for a, b in zip(ours, theirs, strict=True):
        for key in ("train/loss", "val/loss", "val/miou"):
            assert a.metrics[key] == pytest.approx(b.metrics[key], abs=ROUNDING), (a.epoch, key)


def test_two_processes_give_the_loss_curve_of_one(alone, together):
    assert_same_curve(together[0], alone[0])
    assert alone[0][-1].metrics["train/loss"] < alone[0][0].metrics["train/loss"]


def test_their_checkpoint_is_that_of_one_process(alone, together):
    ours, theirs = (load_state(folder / "kept-3") for _, folder in (together, alone))
    assert list(ours["model"]) == list(theirs["model"])
    assert ours["num_updates"] == theirs["num_updates"]
    for name, value in theirs["model"].items():  # running statistics of the batch norms too
        torch.testing.assert_close(ours["model"][name], value, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("part", [{"lora_rank": 4}, {"frozen_stages": 2}, {"frozen": True}])
def test_ranks_share_what_learns_of_a_backbone_that_keeps_weights(data, tmp_path, part):
    changes = {
        "backbone": Backbone(name="test_vit", pretrained=False, **part),
        "head": LinearHead(dropout=0.0),
        "augmentation": Augmentation(crop_px=32, num_views=1),  # of the frozen one, features are kept
    }
    recipe = recipe_of(num_epochs=2).model_copy(update=changes)
    curves = [run(data, tmp_path / str(ranks), recipe, num_ranks=ranks) for ranks in (1, 2)]
    assert_same_curve(*curves)


@pytest.mark.slow
def test_two_processes_go_on_from_the_checkpoint_of_one(data, alone, tmp_path):
    reports, folder = alone
    assert_same_curve(run(data, tmp_path, num_ranks=2, resume_from=folder / "kept-2"), reports[2:])


@pytest.mark.slow
def test_a_compiled_step_of_a_rank_has_the_gradients_of_the_plain_one(tmp_path, monkeypatch):
    """A group of one process: what is compiled is torch's data-parallel module, in two micro-batches."""
    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", lambda step, **_: compile_with(step, backend="aot_eager", dynamic=False))
    torch.manual_seed(0)
    step = TrainingStep(build_segmentor(recipe_of(), 3), build_loss(Loss(), 3)).train()
    parts = [(torch.randn(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64)), torch.tensor(2.0 * 2 * 64 * 64))] * 2

    def gradients(module, apart):
        step.zero_grad()
        with apart():
            module(*parts[0]).backward()
        module(*parts[1]).backward()
        return {name: parameter.grad.clone() for name, parameter in step.named_parameters()}

    expected = gradients(step, contextlib.nullcontext)
    with joined(Ranks(), tmp_path / "meeting", "cpu"):
        shared = compiled(DistributedDataParallel(step, broadcast_buffers=False), "cpu")
        found = gradients(shared, shared.no_sync)
    torch._dynamo.reset()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


def test_what_a_rank_raises_is_raised_once(data, tmp_path):
    with pytest.raises(ValueError, match=r"must hold state\.pt"):
        run(data, tmp_path, num_ranks=2, resume_from=tmp_path)


@pytest.mark.slow
def test_a_diverged_trial_reports_before_it_raises(data, tmp_path):
    reports = []
    recipe = recipe_of().model_copy(update={"optimizer": Optimizer(lr=1e30, clip_norm=None, warmup_epochs=0)})
    with pytest.raises(Diverged, match="loss was nan"):
        fit(Trial(recipe, *data, tmp_path, "cpu"), reports.append, num_ranks=2)
    assert [done.metrics["diverged"] for done in reports] == [1]


def test_a_report_is_heard_although_another_rank_was_quicker_to_diverge():
    (talk, first), (other_talk, other) = multiprocessing.Pipe(), multiprocessing.Pipe()
    reports = []
    other.send(("error", Diverged("the training loss was nan")))

    def report_and_diverge():
        time.sleep(0.3)  # the other's message is there alone
        first.send(("epoch", "the epoch"))
        first.recv()
        first.send(("error", Diverged("the training loss was nan")))

    rank = threading.Thread(target=report_and_diverge)
    rank.start()
    with pytest.raises(Diverged):
        launch_ranks._listen([], [talk, other_talk], reports.append)
    rank.join()
    assert reports == ["the epoch"]


def test_a_callback_that_raises_leaves_no_rank_behind(data, tmp_path):
    started = []

    def stop(done):
        started.extend(p.pid for p in multiprocessing.active_children() if p.name.startswith("segsearch-rank-"))
        raise SystemExit

    with pytest.raises(SystemExit):
        fit(Trial(recipe_of(), *data, tmp_path, "cpu"), stop, num_ranks=2)
    assert len(started) == 2
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


class FakeProcess:
    def __init__(self, exitcode):
        self.exitcode = exitcode

    def join(self, timeout):
        pass


def test_a_killed_rank_is_named_and_not_the_one_that_missed_it():
    processes = [FakeProcess(None), FakeProcess(-9)]
    found = launch_ranks._cause(processes, 0, RuntimeError("Connection closed by peer"))
    assert isinstance(found, RankFailed)
    assert "rank 1 of 2 ended with exit status -9 (killed" in str(found)
    full = DoesNotFit(2, "out of memory")
    assert launch_ranks._cause(processes, 0, full) is full


def test_an_exception_is_told_before_the_group_ends(tmp_path, monkeypatch):
    """Its end waits for ranks that still compute: for NCCL's whole time limit."""
    ended = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: ended.append("group"))
    with pytest.raises(ZeroDivisionError), joined(Ranks(0, 2), tmp_path / "meeting", "cpu"):
        raise ZeroDivisionError
    assert ended == []
    with joined(Ranks(0, 2), tmp_path / "meeting", "cpu"):
        pass
    assert ended == ["group"]


def test_a_batch_must_divide_by_the_ranks(data, tmp_path):
    with pytest.raises(ValueError, match="divisible by 3 GPUs x 2 micro-batches, got 4; use 6"):
        run(data, tmp_path, num_ranks=3)


def test_shares_are_disjoint_and_whole():
    shares = [Ranks(rank, 3).share(range(8)) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == list(range(8))


def test_errors_travel_without_their_frames():
    class Local(RuntimeError):
        pass

    assert str(launch_ranks._sendable(Local("x"))) == "Local: x"
    full = launch_ranks._sendable(DoesNotFit(4, "why"))
    assert isinstance(full, DoesNotFit)
    assert (full.accumulate, full.reason) == (4, "why")


def test_the_cpus_synchronised_batch_norm_is_torchs_where_one_process_is_all(monkeypatch):
    from trainables.training import sync_batch_norm

    monkeypatch.setattr(sync_batch_norm, "all_reduce", lambda tensor: tensor)
    torch.manual_seed(0)
    plain, ours = nn.BatchNorm2d(3), synchronise(nn.BatchNorm2d(3), "cpu")
    assert isinstance(ours, CpuSyncBatchNorm)
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    torch.testing.assert_close(ours(x), plain(x))
    torch.testing.assert_close(ours.running_var, plain.running_var)
    ours.eval()
    plain.eval()
    torch.testing.assert_close(ours(x), plain(x))
    assert math.isfinite(float(ours.running_mean.sum()))
