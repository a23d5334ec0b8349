"""A study that shows some of its trials, or others in their place, to samplers and plots."""

from __future__ import annotations

from collections.abc import Container

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from typing_extensions import override


class StudyWindow(Study):
    """A study as it was at one moment: `seen` are its trials, which nobody may change. Nothing is copied: a study in
    memory would copy every trial, with a recipe and a dozen distributions each."""

    def __init__(self, study: Study, seen: list[FrozenTrial]) -> None:
        self.__dict__.update(study.__dict__)  # Study's own constructor would read the storage
        self._seen = seen

    @override
    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        assert not deepcopy  # samplers and plots never ask for it
        return [one for one in self._seen if states is None or one.state in states]
