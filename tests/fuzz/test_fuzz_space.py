"""Spaces and --set: read, or refused with a message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from fuzz.hostile import as_yaml, damaged, examples, reads_or_refuses, spoilt
from fuzz.test_fuzz_data import SNIPPETS
from hypothesis import example, given, settings
from hypothesis import strategies as st

from search.space.space import load_space

SPACES: list[dict[str, Any]] = [
    yaml.safe_load(text)
    for text in (
        """
model:
  backbone: {choice: [resnet18, convnext_atto]}
  drop_path: {float: [0.0, 0.2]}
  head: {choice: {upernet: {channels: {choice: [64, 128]}}, segformer: {dropout: {float: [0.0, 0.5]}}}}
optimizer: {lr: {log: [1.0e-5, 1.0e-3]}, clip_norm: {choice: [null, 1.0]}}
train: {batch_size: {int: [2, 8]}}
augmentation: {preset: beit, crop_px: 64, colour: {p: 0.5, one_of: true, CLAHE: {p: 0.5}}, mosaic: {p: 0.1}}
search: {num_trials: 3, max_epochs: 9, grace_epochs: 3}
resources: {gpu: 1, cpu: 8, large: {over_params_m: 100, gpu: 2, cpu: 16}}
tta: {scales: [0.75, 1.0], flips: [none, horizontal]}
split: {val_share: 0.1, holdout_share: 0.2}
points: [{model/backbone: resnet18, optimizer/lr: 2.0e-4}]
seed: 5
profiles: {cpu: {model: {backbone: resnet18}, search: {num_trials: 1}}}
""",
        """
extends: convnext.yaml
model:
  choice:
    a: {backbone: {choice: [convnext_atto]}, head: {choice: {upernet: {}, segformer: {}}}}
    b: {backbone: resnet18, head: {name: segformer, channels: {choice: [64, 128]}}}
ensemble: {candidates: 4, soups: off}
points: [{model: b, model/b/head/channels: 128}]
""",
    )
]
spaces = st.sampled_from(SPACES)
PATHS = ["model.head", "search.max_epochs", "resources.cpu", "optimizer.lr.log", "points", "tta.scales", "seed", "a..b"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("space") / "s.yaml"


@settings(max_examples=examples())
@given(spaces.flatmap(damaged).map(as_yaml) | spaces.map(as_yaml).flatmap(lambda raw: spoilt(raw, SNIPPETS)))
@example(b"model: {choice: {a: {backbone: resnet18}, b: {backbone: resnet18, head: upernet}}}")
@example(b"model: {backbone: {choice: [resnet18]}, head: upernet}\npoints: [{model/backbone: {a: 1}}]")
@example(b"model: {backbone: resnet18, head: upernet}\nresources: {cpu: " + b"9" * 400 + b"}")
@example(b"model: {backbone: resnet18, head: upernet}\nsearch: {max_epochs: 1e999}")
@example(b"a: &a [*a]")
@example(b"a: " + b"{a: " * 400)
def test_space(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    for profile in (None, "cpu"):
        reads_or_refuses(lambda profile=profile: load_space(str(path), profile=profile))


@settings(max_examples=examples(0.5))
@given(st.sampled_from(PATHS), st.text(max_size=9) | st.sampled_from([each.decode("latin-1") for each in SNIPPETS]))
def test_assignments(path: Path, dotted: str, text: str) -> None:
    path.write_bytes(as_yaml(SPACES[0]))
    reads_or_refuses(lambda: load_space(str(path), overrides=[f"{dotted}={text}"]))
