"""Protocols of images and logits, so that prediction and voting work from files and from memory alike."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class ImageSource(Protocol):
    """Images by id, as `trainables.data.cache.Cache` has them."""

    def image(self, image_id: str, /) -> NDArray[np.uint8]:
        """RGB (H,W,3)."""
        ...

    def size(self, image_id: str, /) -> tuple[int, int]:
        """Height and width in px."""
        ...


class Origin(Protocol):
    """The part of a `LogitHeader` that error messages name."""

    @property
    def trial(self) -> str: ...


class LogitSource(Protocol):
    """Logits by view and image, as `trainables.logits.store.LogitStore` has them."""

    @property
    def header(self) -> Origin: ...

    def logits(self, view: str, image_id: str, /) -> NDArray[np.float16] | NDArray[np.float32]:
        """(K,h,w) at the head's own stride."""
        ...

    def size_px(self, view: str, image_id: str, /) -> tuple[int, int]:
        """Height and width of the image's label."""
        ...
