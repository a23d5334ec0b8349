"""The data card: paths, defaults, and messages that name the rule, the value and the remedy."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from trainables.data.card import DataProblems, Findings, read_card


def write(folder: Path, text: str) -> Path:
    path = folder / "data.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_are_absolute_and_relative_to_root(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    card = read_card(write(tmp_path, "root: photos\ntrain: train.json\nval: /elsewhere/val.json\nholdout:\n"))
    assert card.root == tmp_path / "photos"
    places = {role: [part.place for part in parts] for role, parts in card.parts().items()}
    assert places == {"train": [tmp_path / "photos" / "train.json"], "val": [Path("/elsewhere/val.json")]}
    assert card.name == tmp_path.name
    assert card.background
    assert card.ignore == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trian: a.json\ntrain: b.json", "unknown key 'trian'; did you mean 'train'"),
        ("name: x", "train is required"),
        ("train: [", "not valid YAML"),
        ("- train", "a data card is a mapping"),
        ("train: a.json\nroot: nowhere", "root must be a folder"),
        ("train: a.json\nval: a.json", "train and val must be different files"),
        ("train: a.json\ngroup: '('", "group must be a regular expression"),
        ("train: a.json\nbackground: perhaps", "background: .* got 'perhaps'"),
        ("train: 3", "train must be a COCO file, .* got 3"),
        ("train: a.json\nname: 2026-13-45", "'2026-13-45' is no timestamp"),
        ("train: ~nobody.at.all/a.json", "must begin with a folder that is known"),
        ('train: "a\\0.json"', "with a NUL; correct it"),
        (f"train: {'a' * 300}", "255 between its slashes"),
        (f"train: {'[' * 500}", "nested at most 60 deep"),
    ],
)
def test_a_bad_card_is_one_clear_message(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_card(write(tmp_path, text))


def test_a_missing_card_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be read .* check the path"):
        read_card(tmp_path / "data.yaml")
    with pytest.raises(ValueError, match=r"got a folder; give its data\.yaml"):
        read_card(tmp_path)


def test_problems_are_listed_up_to_fifty_and_travel_between_processes() -> None:
    problems = DataProblems([f"train.json: image {n}: broken" for n in range(60)])
    lines = str(pickle.loads(pickle.dumps(problems))).splitlines()  # noqa: S301
    assert lines[0] == "60 problems in the data:"
    assert len(lines) == 52
    assert lines[-1] == "... and 10 more"


def test_warnings_are_counted_by_file_and_rule_with_the_first_ids() -> None:
    findings = Findings()
    for annotation_id in range(7):
        findings.warn("train.json", "polygon without area", annotation_id)
    assert findings.counted() == {"train.json: polygon without area (0, 1, 2, 3, 4, ...)": 7}
