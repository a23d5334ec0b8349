"""Parameters of post-processing, per class."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trainables.recipe.config import Config

Sizes = tuple[Annotated[float, Field(ge=0.0, lt=1.0)], ...]


class Postprocess(Config):
    """Sizes per class, as shares of an image's pixels; 0 leaves a class alone. `postprocess` applies them."""

    min_component: Sizes  # (K,) a smaller component of the class is removed
    max_hole: Sizes  # (K,) a smaller hole in the class is filled

    @property
    def idle(self) -> bool:
        return not any(self.min_component) and not any(self.max_hole)
