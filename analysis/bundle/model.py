"""A bundle from Python, in three lines. Light to import: what is heavy comes with the first `load`.

from analysis.bundle import load
model = load("RUN/bundle")
labels = model("photo.jpg")          # uint8 (H,W)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.files import user_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from analysis.bundle.predictor import Predictor

    Photo = str | Path | Image | NDArray[np.uint8]


def load(folder: str | Path, device: str = "auto") -> Model:
    """The model in a bundle's folder; `device` is a torch device's name, or 'auto': a GPU where there is one.

    Raises BundleError (a ValueError) where the folder is no bundle, or not whole, ValueError for a device that is not
    there.
    """
    from analysis.bundle.manifest import read_bundle
    from analysis.bundle.predictor import Predictor

    return Model(Predictor(read_bundle(user_path(str(folder))), device=device, batch_size=1))


class Model:
    """Labels photographs, one at a time. A photograph is a path, a PIL image, or uint8 RGB (H,W,3)."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.classes: tuple[str, ...] = predictor.classes  # (K,)

    def __call__(self, photo: Photo) -> NDArray[np.uint8]:
        """Labels (H,W), uint8: indices of `classes`. Pixels are taken as stored, whatever an orientation tag says.

        Raises ValueError for a file that is missing or no image, an image of more than 8 bits a channel, and an array
        of another kind.
        """
        return self._predictor.predict(_pixels(photo))

    def probabilities(self, photo: Photo) -> NDArray[np.float32]:
        """(K,H,W) float32 that sum to 1 at every pixel, before post-processing. Raises ValueError as a call does."""
        return self._predictor.probabilities(_pixels(photo))


def _pixels(photo: Any) -> NDArray[np.uint8]:  # whatever a caller may give
    import numpy as np
    from PIL import Image

    from trainables.data.image_file import EIGHT_BIT_MODES, decode_image

    if isinstance(photo, (str, Path)):
        path = user_path(str(photo))
        if not path.is_file():
            raise ValueError(f"a photo must be an image file, got {path}, where there is none; correct the path")
        return decode_image(path).pixels
    if isinstance(photo, Image.Image):
        if photo.mode not in EIGHT_BIT_MODES:
            raise ValueError(f"a photo must have 8 bits a channel, got mode {photo.mode!r}; convert it to 8-bit RGB")
        return np.array(photo.convert("RGB"))
    if isinstance(photo, np.ndarray):
        return photo  # the predictor checks its kind
    raise ValueError(
        f"a photo must be a path, a PIL image or a uint8 array (H,W,3), got {type(photo).__name__}; convert it first"
    )
