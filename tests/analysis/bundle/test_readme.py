"""The model card in a bundle: true to the manifest, readable by the hub, safe whatever names hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from factories import make_ensemble, make_member
from huggingface_hub import ModelCard

from analysis.bundle.export import BundleFacts, export, user_choice
from analysis.bundle.manifest import Manifest, read_bundle
from analysis.bundle.readme import RunFacts, write_card

RUN = RunFacts(("/home/someone/.venv/bin/segsearch", "run", "--set", "a={b: 1}"), 7)
FACTS = BundleFacts("trash", "data", "split", ("CC BY 4.0",), run=RUN)


@pytest.fixture(scope="module")
def manifest(tiny_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = export(FACTS, tiny_run.ensemble, tiny_run.weights, tmp_path_factory.mktemp("card") / "bundle")
    return read_bundle(folder).manifest


@pytest.fixture(scope="module")
def card(tiny_run: Any, manifest: Manifest) -> str:
    return write_card(manifest, tiny_run.ensemble, tiny_run.ensemble.shipped, RUN)


def test_the_hub_reads_its_front_matter(card: str) -> None:
    data = ModelCard(card, ignore_metadata_errors=False).data
    assert data.pipeline_tag == "image-segmentation"
    [result] = data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("trash", "mean_iou", 0.5)


def test_it_says_what_a_user_needs(card: str) -> None:
    for said in (
        "The verdict: Ship it.",
        "| hold-out, which nothing was fitted to | 3 | 0.500 \\[0.480, 0.520\\] |",
        "+0.010 mIoU [-0.005, +0.020] over the best single model",
        "| 0002 | test\\_resnet | segformer | s1.50-none | member-1.safetensors |",
        "7 images to train on, 3 held out",
        "* images of trash: CC BY 4.0 (commercial use is allowed)",
        "Taken together: commercial use is allowed",
        "segsearch run --set 'a={b: 1}'",
        "python load.py photo.jpg label.png",
        "* three images only",
    ):
        assert said in card
    assert "/home/someone" not in card


def test_a_choice_of_the_user_stands_beside_the_verdict(tiny_run: Any, manifest: Manifest) -> None:
    chosen = tiny_run.ensemble.rule("hard_vote")
    marked = manifest.model_copy(update={"rule": "hard_vote", "user_choice": user_choice(tiny_run.ensemble, chosen)})
    text = write_card(marked, tiny_run.ensemble, chosen, RUN)
    assert "**Chosen by hand:** the user ships hard\\_vote instead of member\\_class" in text
    assert "segsearch export --run RUN --rule hard_vote" in text


def test_names_cannot_break_out_of_the_page(manifest: Manifest) -> None:
    evil = "a | b\n---\n<script>`x` ```"
    classes = (evil, "b", "c")
    ensemble = make_ensemble(classes, [make_member("0"), make_member("1")])
    named = manifest.model_copy(update={"data": evil, "classes": classes})
    text = write_card(named, ensemble, ensemble.shipped, RunFacts(("segsearch", "run", "--data", "```\n# x")))
    assert ModelCard(text).data.eval_results[0].dataset_name == evil
    _, _, body = text.partition("\n---\n")
    assert "<script>" not in body
    assert "| a \\| b --- &lt;script>\\`x\\` \\`\\`\\` |" in body
    assert body.count("```") % 2 == 0


def test_the_strictest_licence_decides(tiny_run: Any, manifest: Manifest) -> None:
    def said(*licences: str) -> str:
        text = write_card(
            manifest.model_copy(update={"licences": licences}), tiny_run.ensemble, tiny_run.ensemble.shipped, RUN
        )
        return text.partition("Taken together: ")[2].partition(". ")[0]

    assert said("a: mit", "b: cc-by-nc-4.0", "c: who knows") == "commercial use is NOT allowed"
    assert said("a: mit", "c: who knows") == "whether commercial use is allowed is not known: check it"


def test_equal_runs_give_equal_cards(tiny_run: Any, card: str, manifest: Manifest, tmp_path: Path) -> None:
    folder = export(FACTS, tiny_run.ensemble, tiny_run.weights, tmp_path / "again")
    assert (folder / "README.md").read_text(encoding="utf-8") == card
