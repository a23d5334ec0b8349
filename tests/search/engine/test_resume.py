"""A search whose driver dies at any moment ends as one that was never interrupted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from search.engine.admission import Admission
from search.engine.searcher import FamilySearch
from search.engine.study_file import close_storage, open_storage, open_study, rewind_trial
from search.run_dir import JOURNAL
from trainables.recipe.recipe import Recipe

NUM_TRIALS = 4  # two defaults, one random, one by TPE


class Killed(Exception):
    """Stands for the end of the driver's process."""


def kill_before_commit(storage: RDBStorage, number: int) -> list[int]:
    """Raises Killed before the `number`-th commit that writes (from 1); the list holds one item per such commit."""
    commits: list[int] = []
    pending: list[str] = []

    def on_statement(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        pending.extend(word for word in ("INSERT", "UPDATE", "DELETE") if statement.startswith(word))

    def on_commit(_connection: Any) -> None:
        if pending:
            pending.clear()
            commits.append(len(commits) + 1)
            if commits[-1] == number:
                raise Killed

    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", on_statement)
    sqlalchemy.event.listen(storage.engine, "commit", on_commit)
    return commits


@pytest.fixture
def open_search(toy: Any) -> Callable[[RDBStorage], FamilySearch]:
    def suggest(trial: optuna.Trial) -> Recipe:
        backbone = trial.suggest_categorical("model/backbone", ["convnext_atto", "swin_tiny"])
        lr = trial.suggest_float(f"model/backbone/{backbone}/lr", 1e-5, 1e-1, log=True)
        decay = trial.suggest_float("decay", 1e-5, 1e-1, log=True)
        return Recipe.model_validate(
            {**toy.recipe_with(lr, backbone).model_dump(), "optimizer": {"lr": lr, "weight_decay": decay}}
        )

    def admit(recipe: Recipe) -> Admission:
        return Admission(1.0, 2.0, "too large" if recipe.optimizer.lr == 1e-4 else None)  # the second default

    def make(storage: RDBStorage) -> FamilySearch:
        space = toy.space_of(3, suggest, num_trials=NUM_TRIALS)
        return FamilySearch(space, storage=storage, metric="val/miou", admit=admit)

    return make


def run_one(search: FamilySearch, trial_id: str) -> None:
    """Suggests a trial and finishes it with a score that follows from its recipe."""
    config = search.suggest(trial_id)
    assert isinstance(config, dict)
    miou = config["recipe"]["optimizer"]["weight_decay"]
    search.on_trial_result(trial_id, {"epoch": 1, "val/miou": miou / 2})
    search.on_trial_complete(trial_id, {"epoch": 9, "val/miou": miou})


def kill_in_suggest(open_search: Any, path: Path, number: int) -> None:
    storage = open_storage(path)
    search = open_search(storage)
    kill_before_commit(storage, number)
    with pytest.raises(Killed):
        search.suggest("next")
    storage.engine.dispose()


def content(study: optuna.Study) -> list[Any]:
    """All that the study holds but its times."""
    errors = {key: value for key, value in study.user_attrs.items() if value is not None and key.startswith("error/")}
    trials = [
        (t.number, t.state, t.params, t.user_attrs, t.system_attrs, t.intermediate_values, t.values)
        for t in study.trials
    ]
    return [errors, *trials]


@pytest.mark.parametrize("num_finished", range(3))  # next: a default; a refused default and a random one; TPE's
def test_a_kill_before_any_write_of_a_suggestion_changes_nothing(
    open_search: Any, tmp_path: Path, num_finished: int
) -> None:
    start, whole = tmp_path / "start.db", tmp_path / "whole.db"
    storage = open_storage(start)
    search = open_search(storage)
    for trial_id in map(str, range(num_finished)):
        run_one(search, trial_id)
    storage.engine.dispose()

    shutil.copy(start, whole)
    storage = open_storage(whole)
    search = open_search(storage)
    commits = kill_before_commit(storage, 0)
    search.suggest("next")
    expected = content(search.study)
    for number in range(1, len(commits) + 1):
        path = Path(shutil.copy(start, tmp_path / f"{number}.db"))
        kill_in_suggest(open_search, path, number)
        resumed = open_search(open_storage(path))
        resumed.suggest("next")
        assert content(resumed.study) == expected, f"killed before write {number} of {len(commits)}"


def test_the_recipes_cover_refused_random_and_tpe_trials(open_search: Any, tmp_path: Path) -> None:
    """What the test above relies on."""
    search = open_search(open_storage(tmp_path / "study.db"))
    for trial_id in "abc":
        run_one(search, trial_id)
    states = [(trial.number, trial.state.name) for trial in search.study.trials]
    assert states == [(0, "COMPLETE"), (1, "FAIL"), (2, "COMPLETE"), (3, "COMPLETE")]
    assert any(key.startswith("tpe:") for key in search.study.trials[3].system_attrs)


def test_a_kill_while_a_trial_is_rewound_changes_nothing(open_search: Any, tmp_path: Path) -> None:
    whole = open_search(open_storage(tmp_path / "whole.db"))
    whole.suggest("next")
    path = tmp_path / "study.db"
    kill_in_suggest(open_search, path, 5)
    storage = open_storage(path)
    kill_before_commit(storage, 2)  # the first takes the parameters, the second sets the state
    with pytest.raises(Killed):
        open_search(storage)
    storage.engine.dispose()
    resumed = open_search(open_storage(path))
    resumed.suggest("next")
    assert content(resumed.study) == content(whole.study)


def test_a_trial_that_earlier_code_gave_up_keeps_its_number(open_search: Any, tmp_path: Path) -> None:
    search = open_search(open_storage(tmp_path / "study.db"))
    run_one(search, "a")
    search.study.tell(search.study.ask(), state=TrialState.FAIL)  # without a recipe
    resumed = open_search(open_storage(tmp_path / "study.db"))
    run_one(resumed, "b")
    assert [trial.number for trial in resumed.study.trials if "identity" in trial.user_attrs] == [0, 2, 3]


@pytest.mark.parametrize("name", ["study.db", JOURNAL])
def test_a_rewound_trial_keeps_what_was_enqueued_alone(name: str, tmp_path: Path) -> None:
    storage = open_storage(tmp_path / name)
    study = optuna.create_study(storage=storage)
    study.enqueue_trial({"x": 0.5})
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.suggest_float("y", 0, 1)
    trial.set_user_attr("footprint", 1)
    rewind_trial(storage, trial._trial_id)
    [rewound] = study.trials
    assert (rewound.state, rewound.params, rewound.user_attrs) == (TrialState.WAITING, {}, {})
    assert rewound.system_attrs == {"fixed_params": {"x": 0.5}}


def kill_before_append(monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """Writes half of the `number`-th line (from 1) of a journal and raises Killed, its lock left behind; the list holds
    an item per line."""
    appends: list[int] = []
    append = JournalFileBackend.append_logs

    def counted(self: Any, logs: list[dict[str, Any]]) -> None:
        appends.append(len(appends) + 1)
        if appends[-1] == number:
            with Path(self._file_path).open("a") as file:
                file.write(json.dumps(logs[0])[:20])
            Path(f"{self._file_path}.lock").symlink_to(self._file_path)
            raise Killed
        append(self, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", counted)
    return appends


@pytest.mark.parametrize("num_finished", range(3))
def test_a_kill_in_the_middle_of_any_line_of_the_journal_changes_nothing(
    open_search: Any, tmp_path: Path, num_finished: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = tmp_path / "start" / JOURNAL
    start.parent.mkdir()
    search = open_search(open_storage(start))
    for trial_id in map(str, range(num_finished)):
        run_one(search, trial_id)

    def copied(name: str) -> Path:
        return Path(shutil.copytree(start.parent, tmp_path / name)) / JOURNAL

    with monkeypatch.context() as counting:
        search = open_search(open_storage(copied("whole")))
        appends = kill_before_append(counting, 0)
        search.suggest("next")
    expected = content(search.study)
    for number in range(1, len(appends) + 1):
        path = copied(str(number))
        with monkeypatch.context() as killing:
            search = open_search(open_storage(path))
            kill_before_append(killing, number)
            with pytest.raises(Killed):
                search.suggest("next")
        resumed = open_search(open_storage(path))
        resumed.suggest("next")
        assert content(resumed.study) == expected, f"killed in line {number} of {len(appends)}"


def test_a_journal_and_a_database_hold_the_same_search(open_search: Any, tmp_path: Path) -> None:
    found = []
    for name in ("study.db", JOURNAL):
        storage = open_storage(tmp_path / name)
        search = open_search(storage)
        for trial_id in "abc":
            run_one(search, trial_id)
        close_storage(storage)
        found.append(content(open_study(tmp_path / name)))
    assert found[0] == found[1]
