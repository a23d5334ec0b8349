"""A bundle as an MLflow model: `mlflow.pyfunc.load_model` calls `_load_pyfunc`, as the bundle's MLmodel file tells it.

Nothing is pickled: the model is the bundle's own files, and this package must be installed where it is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analysis.bundle.model import Model, load

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class BundleModel:
    """What MLflow wraps."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def predict(self, photos: Any, params: Any = None) -> list[NDArray[np.uint8]]:  # noqa: ARG002 MLflow's signature
        """Labels (H,W), uint8, of each photograph: a sequence of what `Model` takes, or a table of one column of paths.

        Raises ValueError where it is neither, and as `Model` does.
        """
        if hasattr(photos, "iloc"):  # pandas, which is not imported for it
            photos = photos.iloc[:, 0].tolist()
        if isinstance(photos, str) or not isinstance(photos, Sequence):
            raise ValueError(
                f"photographs must be a list of paths or of uint8 arrays (H,W,3), got {type(photos).__name__}; "
                "put a single one into a list"
            )
        return [self.model(photo) for photo in photos]


def _load_pyfunc(data_path: str) -> BundleModel:
    return BundleModel(load(data_path))
