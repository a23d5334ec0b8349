"""Finding, reading and merging space files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from search.space.problems import SpaceProblems
from search.space.space_file import merge, read_space_file
from search.space.yaml_format import dump_yaml, parse_yaml

WORDS = ["on", "off", "Yes", "no", "y", "N", "true", "False", "null", "~", "", "=", "<<", "12", "010", "0x1f", "0o17"]
WORDS += ["1:30", "1_000", ".5", ".inf", ".nan", "1.0e+5", "2024-01-01", "bf16", "a: b", "- a", "# a"]


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_path_comes_before_a_shipped_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "convnext.yaml", "seed: 7")
    monkeypatch.chdir(tmp_path)
    assert read_space_file("convnext.yaml").tree == {"seed": 7}
    assert "model" in read_space_file("convnext").tree  # no such path: the shipped one


def test_an_unknown_space_names_the_nearest() -> None:
    with pytest.raises(SpaceProblems, match=r"'convnex.yaml'; did you mean 'convnext.yaml'"):
        read_space_file("convnex.yaml")


def test_extends_lies_beside_the_file_and_goes_one_level(tmp_path: Path) -> None:
    write(tmp_path, "low.yaml", "seed: 1\ntrain: {batch_size: 4, accumulate: 2}")
    middle = write(tmp_path, "middle.yaml", "extends: low.yaml\ntrain: {batch_size: 8}")
    assert read_space_file(middle).tree == {"seed": 1, "train": {"batch_size": 8, "accumulate": 2}}
    top = write(tmp_path, "top.yaml", "extends: middle.yaml")
    with pytest.raises(SpaceProblems, match=r"one level, but middle.yaml extends 'low.yaml'"):
        read_space_file(top)


@pytest.mark.parametrize(
    ("old", "new", "merged"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"b": 3, "c": 2}}),
        ({"a": {"float": [0, 1]}}, {"a": {"log": [1, 2]}}, {"a": {"log": [1, 2]}}),
        ({"a": {"choice": {"x": {}, "y": {}}}}, {"a": {"choice": {"z": {}}}}, {"a": {"choice": {"z": {}}}}),
        ({"a": {"b": 1}}, {"a": {"choice": [1]}}, {"a": {"choice": [1]}}),
        ({"head": {"name": "p", "q": 1}}, {"head": {"name": "r"}}, {"head": {"name": "r"}}),
        ({"loss": {"name": "p", "q": 1}}, {"loss": {"name": "r"}}, {"loss": {"name": "r", "q": 1}}),
    ],
)
def test_sections_merge_and_searched_values_replace(old: dict, new: dict, merged: dict) -> None:
    assert merge(old, new) == merged


def test_profiles_of_the_base_and_of_the_space_are_laid_on_in_order(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "seed: 1\ntta: {flips: [none]}\nprofiles: {cpu: {seed: 2, tta: {scales: [1.0]}}}")
    spec = write(tmp_path, "s.yaml", "extends: base.yaml\nseed: 3\nprofiles: {cpu: {seed: 4}, big: {seed: 5}}")
    plain, cpu = read_space_file(spec), read_space_file(spec, profile="cpu", overrides=["tta.flips=[vertical]"])
    assert (plain.tree["seed"], plain.profile, plain.profiles) == (3, None, ("cpu", "big"))
    assert cpu.tree == {"seed": 4, "tta": {"flips": ["vertical"], "scales": [1.0]}}
    with pytest.raises(SpaceProblems, match=r"unknown profile 'cup'; did you mean 'cpu'"):
        read_space_file(spec, profile="cup")


def test_set_reaches_into_a_choice_but_not_past_it(tmp_path: Path) -> None:
    spec = write(tmp_path, "s.yaml", "model: {head: {choice: {upernet: {channels: 64}, segformer: {}}}}")
    file = read_space_file(spec, overrides=["model.head.choice.upernet.channels=128", "optimizer.lr=1e-4"])
    assert file.tree["model"]["head"]["choice"] == {"upernet": {"channels": 128}, "segformer": {}}
    assert file.tree["optimizer"] == {"lr": 1e-4}
    assert "head is searched" in read_space_file(spec, overrides=["model.head.channels=64"]).problems[0]


@pytest.mark.parametrize("override", ["seed", "=3", "a..b=1", "tta.scales=[1", "profiles.cpu.seed=1", "extends=x"])
def test_an_override_that_means_nothing_is_a_problem(tmp_path: Path, override: str) -> None:
    assert len(read_space_file(write(tmp_path, "s.yaml", ""), overrides=[override]).problems) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\ntrain: {a: 1", r"s.yaml:2:13: not valid YAML"),
        ("seed: 1\nsearch: {}\nseed: 2", r"s.yaml:3:1: .*'seed' appears twice"),
        ("train:\n\tbatch_size: 1", r"s.yaml:2:1: not valid YAML"),
        ("seed: 1\nname: a\x00b", r"s.yaml:2:8: not valid YAML: character"),
        ("- 1\n- 2", r"must be a mapping at the top, got a list"),
        ("seed: !!python/name:os.system", r"s.yaml:1:7: not valid YAML"),
        ("a: &a [*a]", r"an alias must not contain itself"),
        ("a: {1: 2}", r"a: keys must be text, got 1"),
        ("a: !!binary aGk=", r"a: must be text, a number"),
    ],
)
def test_broken_yaml_says_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpaceProblems, match=message):
        read_space_file(write(tmp_path, "s.yaml", text))


def test_scalars_are_those_of_yaml_1_2() -> None:
    text = "{a: 1e-5, b: off, c: 010, d: 1:30, e: ~, f: true, g: -3, h: .5, i: '1', j: 2024-01-01}"
    expected = {"a": 1e-5, "b": "off", "c": 10.0, "d": "1:30", "e": None, "f": True, "g": -3, "h": 0.5, "i": "1"}
    assert parse_yaml(text, "x") == expected | {"j": "2024-01-01"}
    assert parse_yaml(dump_yaml(expected | {"k": "1e-5", "l": "true"}), "x") == expected | {"k": "1e-5", "l": "true"}


@pytest.mark.parametrize("word", WORDS)
def test_written_text_is_text_to_every_yaml_reader(word: str) -> None:
    tree = {"a": word, "b": [word], word: 1e-5}
    assert parse_yaml(dump_yaml(tree), "x") == tree
    assert yaml.safe_load(dump_yaml(tree)) == tree
    assert parse_yaml(yaml.safe_dump(yaml.safe_load(dump_yaml(tree))), "x") == tree


@pytest.mark.parametrize(
    "word", ["on", "off", "Yes", "no", "y", "N", "true", "null", "12", "1e5", "0o17", "2024-01-01"]
)
def test_text_that_looks_like_another_scalar_is_quoted(word: str) -> None:
    assert dump_yaml({"a": word}) == f"a: '{word}'\n"


def test_a_byte_order_mark_and_windows_line_ends_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_bytes(b"\xef\xbb\xbfseed: 7\r\ntrain: {batch_size: 4}\r\n")
    assert read_space_file(str(tmp_path / "s.yaml")).tree == {"seed": 7, "train": {"batch_size": 4}}


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpaceProblems, match="must be UTF-8 text"):
        read_space_file(str(tmp_path / "s.yaml"))


def test_a_bomb_of_aliases_and_a_deep_one_are_one_problem_each(tmp_path: Path) -> None:
    bomb = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))])
    for text in (bomb, "a: " + "[" * 999, "search: {max_epochs: 1e999}", f"resources: {{cpu: {'9' * 400}}}"):
        with pytest.raises(SpaceProblems, match="not valid YAML") as error:
            read_space_file(write(tmp_path, "s.yaml", text))
        assert len(str(error.value)) < 500


def test_a_long_value_is_shortened_between_rule_and_remedy() -> None:
    (line,) = str(SpaceProblems("s", ["must be short, got " + "x" * 5000 + "; write less"])).splitlines()[1:]
    assert line.strip().startswith("must be short")
    assert line.endswith("; write less")
    assert len(line) < 1100
