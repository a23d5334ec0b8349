"""The views that are offered, and the turns that a data card must allow."""

from __future__ import annotations

from pathlib import Path

import pytest
from factories import make_card

from search.space.options import Options, Tta
from search.stages.logits import offered_views
from search.stages.run_data import check_turns
from trainables.logits.view import Tile, View


def test_the_plain_view_is_always_offered() -> None:
    assert offered_views(Options(tta=Tta(scales=(1.25,)))) == [View(), View(1.25)]


def test_turns_and_flips_make_eight_views_and_no_picture_twice() -> None:
    tta = Tta(flips=("none", "horizontal", "vertical"), turns=(0, 90, 180, 270))
    views = offered_views(Options(tta=tta))
    assert len(views) == len({view.pose for view in views}) == 8
    assert View() in views


def test_turns_need_a_card_that_allows_them(tmp_path: Path) -> None:
    turned, upright = Options(tta=Tta(turns=(0, 90))), Options()
    check_turns(make_card(tmp_path, "turns: true"), turned)
    check_turns(make_card(tmp_path, ""), upright)
    with pytest.raises(ValueError, match=r"tta\.turns must be \[0\].*got \[0, 90\].*data\.yaml.*set `turns: true`"):
        check_turns(make_card(tmp_path, ""), turned)


def test_tiles_are_offered_beside_the_whole_image() -> None:
    tta = Tta(scales=(2.0,), tiles_px=(0, 512), overlaps=(0.25, 0.5))
    assert offered_views(Options(tta=tta)) == [
        View(), View(2.0), View(2.0, tile=Tile(512, 0.25)), View(2.0, tile=Tile(512, 0.5)),
    ]  # fmt: skip
    for wrong, message in (({"tiles_px": (16,)}, "use 64"), ({"overlaps": (0.9,)}, r"0 to 0\.75")):
        with pytest.raises(ValueError, match=message):
            Tta.model_validate(wrong)
