"""What users can mend ends a command with one line and exit code 2; all else is a traceback."""

from __future__ import annotations

import pytest
import typer

from trainables.command import errors_to_exit


@pytest.mark.parametrize(
    "error", [ValueError("a: wrong"), OSError("a: wrong"), RuntimeError("a: wrong, out of memory")]
)
def test_what_users_can_mend_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as stop, errors_to_exit():
        raise error
    assert stop.value.exit_code == 2
    assert capsys.readouterr().err == f"segsearch: {error}\n"
    with pytest.raises(type(error), match="a: wrong"), errors_to_exit(debug=True):
        raise error


def test_a_fault_of_the_program_is_raised() -> None:
    with pytest.raises(RuntimeError, match="shape"), errors_to_exit():
        raise RuntimeError("shape")
