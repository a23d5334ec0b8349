from __future__ import annotations

import random
import resource
import signal

import numpy as np
import pytest
import torch

from trainables.models.weights_file import fingerprint, load_weights, save_weights
from trainables.training.checkpoint import load_state, random_states, restore_random_states, save_state


def test_state_comes_back(tmp_path):
    state = {"model": {"w": torch.randn(3)}, "epoch": 2, "best": (0.5, 1), "random": random_states()}
    save_state(tmp_path / "new", state)
    back = load_state(tmp_path / "new")
    torch.testing.assert_close(back["model"]["w"], state["model"]["w"])
    assert back["epoch"] == 2
    assert back["best"] == (0.5, 1)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["state.pt"]


def test_random_states_go_on_where_they_were(tmp_path):
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item(), np.random.randn()

    np.random.randn()
    save_state(tmp_path, {"random": random_states()})
    wanted = draw()
    restore_random_states(load_state(tmp_path)["random"])
    assert draw() == wanted


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.99])
def test_a_truncated_state_is_a_clear_error(tmp_path, share):
    path = save_state(tmp_path, {"w": torch.randn(1000)})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ValueError, match=r"state\.pt cannot be read.*cut short.*resume from an earlier"):
        load_state(tmp_path)


def test_an_absent_state_is_a_clear_error(tmp_path):
    with pytest.raises(ValueError, match=r"must hold state\.pt"):
        load_state(tmp_path)


def test_a_failed_write_keeps_the_old_file(tmp_path):
    save_state(tmp_path, {"epoch": 1})
    with pytest.raises(AttributeError):
        save_state(tmp_path, {"epoch": 2, "bad": lambda: None})  # cannot be pickled
    assert load_state(tmp_path) == {"epoch": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_a_clear_error_and_keeps_the_old_file(tmp_path):
    save_state(tmp_path, {"epoch": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"state\.pt could not be written, .* GiB free"):
            save_state(tmp_path, {"w": torch.randn(100_000)})
        with pytest.raises(OSError, match=r"w\.safetensors could not be written"):
            save_weights(tmp_path / "w.safetensors", {"w": torch.randn(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert load_state(tmp_path) == {"epoch": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_weights_come_back_also_tied_or_channels_last(tmp_path):
    kernel = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    save_weights(tmp_path / "w.safetensors", {"a": kernel, "tied": kernel}, {"epoch": "1"})
    back = load_weights(tmp_path / "w.safetensors")
    assert torch.equal(back["a"], kernel)
    assert torch.equal(back["tied"], kernel)


@pytest.mark.parametrize("size", [0, 6, 100, 4000])
def test_truncated_weights_are_a_clear_error(tmp_path, size):
    path = tmp_path / "w.safetensors"
    save_weights(path, {"w": torch.randn(1000)})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        load_weights(path)


def test_fingerprint_changes_with_the_bytes(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"one")
    first = fingerprint(path)
    path.write_bytes(b"two")
    assert len(first) == 16
    assert fingerprint(path) != first
