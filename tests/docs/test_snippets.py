"""Every YAML snippet of the documentation is read by what reads such a file: a block says in its first line which file
it is of, `# data.yaml` or `# space.yaml`; `, in part` where each line is an alternative of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from docs.test_commands import PAGES, resolve, shown

from search.space.allowed_keys import recipe_grammar
from search.space.options import Options
from search.space.space import load_space
from trainables.data.card import DataCard, read_card

CARD = {"train": {"images": "images", "masks": "masks"}, "classes": ["background", "paper"]}
SPACE = {"model": {"backbone": "test_convnext", "head": "segformer"}}
SPACES = Path(__file__).parents[2] / "spaces"
KIND = re.compile(r"# (?:(data)|(space))\.yaml(, in part)?\b")
BUILT_BY_A_DIFF = ("extending.md", "LOG.md")  # what they name need not be there; test_extending.py runs the diffs


def blocks() -> Iterator[tuple[str, str]]:
    """Page -> the text of a fenced block."""
    for page in PAGES:
        for text in re.findall(r"(?ms)^```yaml\n(.*?)^```", page.read_text(encoding="utf-8")):
            yield page.name, text


def spans() -> Iterator[tuple[str, str]]:
    """Page -> a code span that sets a key, such as `folds: {num: 5}`, without an ellipsis."""
    for page in PAGES:
        text = re.sub(r"(?ms)^[ ]*```.*?^[ ]*```", "", page.read_text(encoding="utf-8"))
        for span in re.findall(r"`([a-z_.]+: [^`\n]+)`", text):
            if "..." not in span and page.name not in BUILT_BY_A_DIFF:
                yield page.name, span


def check_card(folder: Path, text: str) -> None:
    """Raises ValueError where it is no data card."""
    (folder / "labelmap.txt").write_text("background\npaper\n", encoding="utf-8")
    path = folder / "data.yaml"
    path.write_text(text, encoding="utf-8")
    read_card(path)


def check_part_of_card(folder: Path, line: str) -> None:
    """The like on top of a card of masks."""
    check_card(folder, yaml.safe_dump(CARD | yaml.safe_load(line)))


def check_space(folder: Path, text: str) -> None:
    """Read it, with all its profiles. Raises SpaceProblems."""
    path = folder / "space.yaml"
    path.write_text(text, encoding="utf-8")
    for profile in (None, *load_space(str(path)).profiles):
        load_space(str(path), profile=profile)


@pytest.mark.parametrize(("page", "text"), list(blocks()))
def test_a_block_is_what_its_first_line_says(page: str, text: str, tmp_path: Path) -> None:
    first, _, rest = text.partition("\n")
    kind = KIND.match(first)
    assert kind, f"{page}: the block must begin with # data.yaml or # space.yaml, got {first}"
    if kind[3]:
        assert kind[1], "only cards are shown in part"
        for line in rest.splitlines():
            check_part_of_card(tmp_path, line)
    else:
        (check_card if kind[1] else check_space)(tmp_path, text)


def test_spans_hold_keys_that_exist(tmp_path: Path) -> None:
    space_keys, checked = {*recipe_grammar().keys, *Options.model_fields}, 0
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(SPACE), encoding="utf-8")
    for _, span in spans():
        key, value = span.split(": ", 1)
        is_card = key in DataCard.model_fields and (key != "train" or "images" in value)
        if is_card:
            check_part_of_card(tmp_path, span)
        elif key.partition(".")[0] in space_keys:
            load_space(str(tmp_path / "base.yaml"), overrides=[f"{key}={value}"])
        checked += is_card or key.partition(".")[0] in space_keys
    assert checked > 10


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in BUILT_BY_A_DIFF], ids=lambda page: page.name
)
def test_commands_set_keys_that_exist(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "split.json").touch()
    monkeypatch.chdir(tmp_path)
    for command in shown(page.read_text(encoding="utf-8")):
        found, words = resolve(command)
        given = [value for option, value in pairwise(words) if option == "--set" and "$" not in value]
        spaces = [value for option, value in pairwise(words) if option == "--space" and (SPACES / value).is_file()]
        if given and found.name == "run":
            load_space(spaces[0] if spaces else "convnext.yaml", overrides=given)
