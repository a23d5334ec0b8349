from __future__ import annotations

from analysis.report.trial_table import trial_table

TRIALS = [
    {"trial": "0000", "state": "COMPLETE", "recipe": "1e5555555555", "best mIoU": 0.5, "optimizer/lr": 1e-4},
    {"trial": "0001", "state": "ERROR", "recipe": "123456789012", "best mIoU": None, "error": "<i>no</i>"},
]


def test_columns_know_numbers_from_names() -> None:
    table = trial_table(TRIALS, {})
    assert [(column.name, column.numeric) for column in table.columns] == [
        ("trial", False),
        ("state", False),
        ("best mIoU", True),
    ]
    assert table.columns[2].cells == [("0.5", "0.5"), ("", "")]


def test_settings_are_folded_under_their_trial() -> None:
    first, second = trial_table(TRIALS, {}).folded
    assert first.settings == [("optimizer/lr", "1.00e-04"), ("recipe", "1e5555555555")]
    assert (first.error, second.error) == ("", "<i>no</i>")


def test_the_most_important_settings_are_told() -> None:
    row = {"trial": "0000"} | {f"a/{name}": n for n, name in enumerate("uvwxyz")}
    (folded,) = trial_table([row], {"a/z": 0.7, "a/y": 0.2}).folded
    assert folded.summary == "z 5, y 4, u 0, v 1 and 2 more"


def test_a_parameter_that_repeats_a_column_is_left_out() -> None:
    rows = [{"trial": n, "backbone": name, "model/backbone": name, "a/b": n} for n, name in enumerate("xy")]
    assert [each.settings for each in trial_table(rows, {}).folded] == [[], []]
    rows = [row | {"a/b": 1 - row["trial"]} for row in rows]
    assert [each.settings for each in trial_table(rows, {}).folded] == [[("a/b", "1")], [("a/b", "0")]]


def test_numbers_are_short() -> None:
    rows = [{"trial": n, "gpu seconds": value} for n, value in enumerate((36440.1, 12.34567, 3.0, 2e7))]
    assert [text for text, _ in trial_table(rows, {}).columns[1].cells] == ["36440", "12.35", "3", "20000000"]
