"""How a trial learns from its own predictions of unlabelled images; `consistency` computes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Consistency:
    """Plain values: they can be sent to another process."""

    confidence: float = 0.95  # from which on a pixel's prediction is its label
    weight: float = 1.0  # of the unlabelled images' loss

    @property
    def identity(self) -> str:
        """Changes with whatever changes the training."""
        return f"{self.confidence} {self.weight}"
