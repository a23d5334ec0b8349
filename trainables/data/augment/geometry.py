"""Applies every geometric operator of a recipe in one resampling.

Image (H,W,3) uint8 and label (H,W) uint8 move alike: the image bilinear, the label by nearest neighbour, filled with
the mean colour and IGNORE_INDEX.

The draws make one matrix and one displacement field; a field is computed on a coarse grid and enlarged. So three
operators cost one remap, and an image is blurred once. The operators draw as albumentations 2.0.8 does; its piecewise
affine loops over pixels in Python and its elastic field draws noise at each (`exact: true`).
"""

from __future__ import annotations

from typing import Any

import albumentations as A
import cv2
import numpy as np
from albumentations.augmentations.geometric import functional as exact
from albumentations.core.type_definitions import Targets
from numpy.typing import NDArray

from trainables.data.augment.crop import PAD_RGB, Pixels, Scalar
from trainables.data.index import IGNORE_INDEX
from trainables.recipe.operators import (
    AffineOp,
    Elastic,
    ElasticTransformOp,
    Geometric,
    Group,
    Operator,
    PerspectiveOp,
    PiecewiseAffineOp,
    ShiftScaleRotateOp,
)

Matrix = NDArray[np.float64]  # (3,3)
Field = NDArray[np.float32]  # (h,w,2): x, y
NO_SECOND_MAP: Any = None  # OpenCV's types want an array
CELL_PX = 8  # of the coarse grid
SCALE_LOW, CORNER_LOW = 0.03, 0.05  # the least jitter of the piecewise affine, the least of the perspective


class Warp(A.DualTransform):
    """The geometric and elastic groups; takes them as plain mappings, so that albumentations can write them down."""

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(
        self, geometric: dict[str, Any] | None = None, elastic: dict[str, Any] | None = None, p: float = 1.0
    ) -> None:
        super().__init__(p=p)
        self.geometric = geometric or {}
        self.elastic = elastic or {}
        self._groups: tuple[Group, ...] = (
            Geometric.model_validate(self.geometric),
            Elastic.model_validate(self.elastic),
        )

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Draw the transform: `matrix` (3,3) from source to output, or `field` (H,W,2) from output to source."""
        height, width = params["shape"][:2]
        matrix = np.eye(3)
        fields: list[ElasticTransformOp | PiecewiseAffineOp] = []
        for group in self._groups:
            for operator in self._chosen(group):
                if isinstance(operator, ElasticTransformOp | PiecewiseAffineOp):
                    fields.append(operator)
                else:
                    matrix = self._matrix(operator, height, width) @ matrix
        if not fields:
            return {"matrix": matrix, "field": None}
        return {"matrix": matrix, "field": self._field(fields, matrix, height, width)}

    def apply(self, img: Pixels, matrix: Matrix, field: Field | None, **_: Any) -> Pixels:
        """(H,W,3) -> (H,W,3)."""
        return move(img, matrix, field, cv2.INTER_LINEAR, PAD_RGB)

    def apply_to_mask(self, mask: NDArray[Scalar], matrix: Matrix, field: Field | None, **_: Any) -> NDArray[Scalar]:
        """(H,W) -> (H,W)."""
        return move(mask, matrix, field, cv2.INTER_NEAREST, (IGNORE_INDEX,))

    def _chosen(self, group: Group) -> list[Operator]:
        operators = list(group.operators().values())
        if not operators or self.py_random.random() >= group.p:
            return []
        if group.one_of:
            return list(self.py_random.choices(operators, [each.p for each in operators]))
        return [each for each in operators if self.py_random.random() < each.p]

    def _matrix(self, operator: Operator, height: int, width: int) -> Matrix:
        draw = self._symmetric
        if isinstance(operator, ShiftScaleRotateOp):
            scale = 1 + draw(operator.scale_limit)
            shift = (width * draw(operator.shift_limit), height * draw(operator.shift_limit))
            return affine_matrix((height, width), (scale, scale), draw(operator.rotate_limit_deg), (0.0, 0.0), shift)
        if isinstance(operator, AffineOp):
            scales = (1 + draw(operator.scale_limit), 1 + draw(operator.scale_limit))
            shears = (draw(operator.shear_limit_deg), draw(operator.shear_limit_deg))
            shift = (width * draw(operator.translate_limit), height * draw(operator.translate_limit))
            return affine_matrix((height, width), scales, draw(operator.rotate_limit_deg), shears, shift)
        assert isinstance(operator, PerspectiveOp), f"no matrix for {type(operator).__name__}"
        std = self.py_random.uniform(CORNER_LOW, operator.scale_max)
        inwards = np.abs(self.random_generator.normal(0, std, (4, 2))) % 0.4  # shares of the sides, never crossing
        return perspective_matrix((height, width), inwards)

    def _symmetric(self, limit: float) -> float:
        return float(self.py_random.uniform(-limit, limit))

    def _field(
        self, operators: list[ElasticTransformOp | PiecewiseAffineOp], matrix: Matrix, height: int, width: int
    ) -> Field:
        """The source position of each output pixel; displacements of several operators add up."""
        elastic = [each for each in operators if isinstance(each, ElasticTransformOp)]
        smooth_px = min((each.sigma_px for each in elastic), default=2.0 * CELL_PX)
        cell = 1 if any(each.exact for each in operators) else min(CELL_PX, int(smooth_px / 2))
        grid = coarse_grid(height, width, cell)
        moved = grid.copy()
        for operator in operators:
            if isinstance(operator, ElasticTransformOp):
                moved += elastic_field(operator, grid.shape[:2], cell, self.random_generator)
                continue
            rows = columns = operator.grid
            scale = self.py_random.uniform(SCALE_LOW, operator.scale_max)
            if operator.exact:
                maps = exact.create_piecewise_affine_maps(
                    (height, width), (rows, columns), scale, False, self.random_generator
                )
                moved[1:-1, 1:-1] += np.dstack(maps) - grid[1:-1, 1:-1]  # type: ignore[arg-type]
            else:
                points, to = control_points((height, width), (rows, columns), scale, self.random_generator)
                moved += shepard(grid, points, to, height, width) - grid
        return enlarge(transform(np.asarray(np.linalg.inv(matrix), np.float64), moved), height, width, cell)


def affine_matrix(
    shape: tuple[int, int],
    scale: tuple[float, float],
    rotate_deg: float,
    shear_deg: tuple[float, float],
    shift_px: tuple[float, float],
) -> Matrix:
    """About the centre: scale, then rotate counter-clockwise, shear and shift. Pairs are x, y."""
    centre_x, centre_y = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    angle = np.deg2rad(rotate_deg)
    shear_x, shear_y = np.tan(np.deg2rad(shear_deg))
    scaled = np.diag([*scale, 1.0])
    rotated = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    sheared = np.array([[1, shear_x, 0], [shear_y, 1, 0], [0, 0, 1]])
    there = np.array([[1, 0, -centre_x], [0, 1, -centre_y], [0, 0, 1]])
    back = np.array([[1, 0, centre_x + shift_px[0]], [0, 1, centre_y + shift_px[1]], [0, 0, 1]])
    matrix: Matrix = back @ sheared @ rotated @ scaled @ there
    return matrix


def perspective_matrix(shape: tuple[int, int], inwards: NDArray[np.float64]) -> Matrix:
    """Takes the quadrilateral whose corners, clockwise from the top left, lie `inwards` (4,2) to the whole image."""
    height, width = shape
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64)
    signs = 1 - 2 * corners
    size = np.array([width - 1, height - 1])
    source, target = (corners + signs * inwards) * size, corners * size
    return np.asarray(cv2.getPerspectiveTransform(source.astype(np.float32), target.astype(np.float32)), np.float64)


def coarse_grid(height: int, width: int, cell: int) -> Field:
    """Coordinates of the centres of cells of `cell` pixels that cover the image and one cell on each side."""
    axes = [(np.arange(-1, -(-side // cell) + 1) + 0.5) * cell - 0.5 for side in (height, width)]
    return np.dstack(np.meshgrid(axes[1], axes[0])).astype(np.float32)


def enlarge(coarse: Field, height: int, width: int, cell: int) -> Field:
    """The values of `coarse_grid`'s cells at every pixel, bilinear: (H,W,2)."""
    size = (coarse.shape[1] * cell, coarse.shape[0] * cell)
    full = cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR) if cell > 1 else coarse
    return np.asarray(full[cell : cell + height, cell : cell + width], np.float32)


def elastic_field(
    operator: ElasticTransformOp, shape: tuple[int, ...], cell: int, generator: np.random.Generator
) -> Field:
    """Uniform noise smoothed with a Gaussian of sigma_px, times alpha (Simard et al. 2003), at every `cell`-th pixel.

    Noise on a grid c times as coarse, smoothed with sigma / c, has c times the standard deviation.
    """
    noise = generator.random((*shape, 2), dtype=np.float32) * 2 - 1
    smooth = cv2.GaussianBlur(noise, (0, 0), operator.sigma_px / cell, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(smooth * (operator.alpha / cell), np.float32)


def control_points(
    shape: tuple[int, int], grid: tuple[int, int], scale: float, generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A grid of points (P,2) over the image and where its jitter takes them, drawn as albumentations does; x, y."""
    height, width = shape
    x, y = np.meshgrid(np.linspace(0, width - 1, grid[1]), np.linspace(0, height - 1, grid[0]))
    jitter = generator.normal(0, scale * min(height, width) / 3, (*grid, 2))
    to = np.dstack([np.clip(x + jitter[..., 1], 0, width - 1), np.clip(y + jitter[..., 0], 0, height - 1)])
    return np.dstack([x, y]).reshape(-1, 2), to.reshape(-1, 2)


def shepard(grid: Field, points: NDArray[np.float64], to: NDArray[np.float64], height: int, width: int) -> Field:
    """Means of `to` (P,2), weighted by inverse squared distance from `points` (P,2): (h,w,2).

    That is what albumentations calls piecewise affine: without jitter it is no identity, but pulls pixels towards the
    nearest control point.
    """
    flat = grid.reshape(-1, 2)
    distance = ((flat[:, None, :] - points[None].astype(np.float32)) ** 2).sum(-1) + np.float32(1e-8)  # (G,P)
    weight = 1 / distance
    mean = (weight @ to.astype(np.float32)) / weight.sum(1, keepdims=True)
    return np.asarray(np.clip(mean, 0, [width - 1, height - 1]).reshape(grid.shape), np.float32)


def transform(matrix: Matrix, points: Field) -> Field:
    """Points (...,2) through a homography (3,3)."""
    if np.array_equal(matrix, np.eye(3)):
        return points
    return np.asarray(cv2.perspectiveTransform(points, matrix), np.float32)


def move(
    source: NDArray[Scalar], matrix: Matrix, field: Field | None, interpolation: int, fill: tuple[int, ...]
) -> NDArray[Scalar]:
    """The source resampled: by the field (output to source) where there is one, else by the matrix."""
    border: Any = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": fill}
    if field is not None:
        return np.asarray(cv2.remap(source, field, NO_SECOND_MAP, interpolation, **border), source.dtype)
    if np.array_equal(matrix, np.eye(3)):
        return source
    size = source.shape[1::-1]
    if np.array_equal(matrix[2], (0, 0, 1)):
        return np.asarray(cv2.warpAffine(source, matrix[:2], size, flags=interpolation, **border), source.dtype)
    return np.asarray(cv2.warpPerspective(source, matrix, size, flags=interpolation, **border), source.dtype)
