from __future__ import annotations

from analysis.report.origin import commands, typed


def test_a_command_is_as_it_was_typed_and_the_programs_place_is_nobodys_business() -> None:
    assert typed(["/home/me/.venv/bin/segsearch", "run", "--set", "a=b c"]) == "segsearch run --set 'a=b c'"
    assert typed(["search/run.py", "--space", "x.yaml"]) == "python search/run.py --space x.yaml"
    assert typed(()) == "segsearch run"


def test_paths_in_commands_survive_a_shell() -> None:
    found = dict(commands("/runs/my run", "/data/card.yaml", ["segsearch", "run"], 3))
    assert found["Label images with what ships"].startswith("segsearch predict --bundle '/runs/my run/bundle' ")
    assert found["This page"] == "segsearch report --run '/runs/my run'"
    assert found["Split and drift"].endswith("--seed 3")
