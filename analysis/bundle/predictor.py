"""Predicts with a bundle: images in, labels or probabilities out, on one device, without Ray.

Images are RGB uint8 (H,W,3), labels uint8 (H,W), probabilities float32 (K,H,W). Every step is the logit store's own:
the same view sizes, the same rounding of logits to float16, the same functions for probabilities, votes and
post-processing. So the bundle reproduces the verdict on the hold-out (to the last digits where a run kept its logits in
8 bits: nothing is rounded to those here).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.bundle.manifest import Bundle, BundleError, Member
from analysis.postprocess.label_map import postprocess
from analysis.voting import probabilities, votes
from trainables.device import placed
from trainables.logits.predict_views import Inference, view_logits
from trainables.logits.view import Tile, View
from trainables.models.load import load_network
from trainables.models.probability_mean import Network

Image = NDArray[np.uint8]  # (H,W,3) RGB
Label = NDArray[np.uint8]  # (H,W)
Float = NDArray[np.float32]
Band = tuple[slice, Float]  # rows of an image, and every member's probabilities (M,K,rows,W) there
BAND_BYTES = 2**28  # of the probabilities that are held at once


class Predictor:
    """The members of a bundle, loaded. Give `predict_many` several images of one size and it batches them.

    `device` is a torch device's name, or 'auto': a GPU where there is one. `half` computes in float16, whatever the
    recipe's own precision; `compiled` lets torch compile the networks; `tile` is how larger images are seen, in place
    of what the views say. Raises BundleError where weights do not fit their network, ValueError for a device that is
    not there or cannot do what is asked.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "auto",
        batch_size: int = 8,
        half: bool = False,
        compiled: bool = False,
        tile: Tile | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}; use 1 where memory is short")
        manifest = bundle.manifest
        self.classes = manifest.classes
        self.palette = np.array(manifest.palette, dtype=np.uint8)  # (K,3)
        self.device = resolve_device(device)
        check_half(self.device, half=half)
        self._half, self._tile = half, tile
        self._rule = manifest.fitted
        weights = np.array(self._rule.weights, dtype=np.float32)  # (M,K)
        self._vote = votes.Vote(self._rule.kind, weights, bundle.stacker())
        self._steps = manifest.postprocess
        self._batch_size = batch_size
        self._flip_pairs = manifest.flip_pairs
        self._members = manifest.members
        self._models = [placed(_load(bundle, member), self.device) for member in manifest.members]
        if compiled:
            self._models = [compile_network(model, self.device) for model in self._models]

    def predict(self, image: Image) -> Label:
        """image (H,W,3) uint8 RGB -> label (H,W) uint8."""
        return next(label for _, label in self.predict_many({"image": image}))

    def probabilities(self, image: Image) -> Float:
        """image (H,W,3) uint8 RGB -> (K,H,W) float32 that sum to 1 at every pixel.

        Soft and stacked votes: the weighted scores over their sum; geometric ones: the weighted geometric means over
        theirs. Hard votes: the share of the members that voted for the class, where a tie, which `predict` gives to the
        best member, stays a tie. Post-processing changes labels, so it has no say here.
        """
        return next(found for _, found in self.probabilities_many({"image": image}))

    def predict_many(self, images: Mapping[str, Image]) -> Iterator[tuple[str, Label]]:
        """Yield (name, label (H,W)) for every image, in the order of `images`."""
        for name, (height, width), bands in self._scored(images):
            label = np.empty((height, width), np.uint8)
            for rows, q in bands:  # q (M,K,rows,W)
                label[rows] = votes.vote_labels(q.reshape(*q.shape[:2], -1), self._vote).reshape(-1, width)
            yield name, label if self._steps is None else postprocess(label, self._steps)

    def probabilities_many(self, images: Mapping[str, Image]) -> Iterator[tuple[str, Float]]:
        """Yield (name, probabilities (K,H,W)) for every image, in the order of `images`."""
        for name, size, bands in self._scored(images):
            found = np.empty((len(self.classes), *size), np.float32)
            for rows, q in bands:
                scores = class_scores(q.reshape(*q.shape[:2], -1), self._vote)  # (K,P)
                total = np.maximum(scores.sum(axis=0), np.float32(1e-12))  # no class scores where all its members say 0
                found[:, rows] = (scores / total).reshape(q.shape[1:])
            yield name, found

    def _scored(self, images: Mapping[str, Image]) -> Iterator[tuple[str, tuple[int, int], Iterator[Band]]]:
        """Yield (name, size, every member's probabilities in bands of rows) for every image."""
        _check_images(images)
        stores = [
            self._logits(member, model, images) for member, model in zip(self._members, self._models, strict=True)
        ]
        for name, image in images.items():
            height, width = image.shape[:2]
            yield name, (height, width), self._bands(stores, name, height, width)

    def _bands(self, stores: Sequence[_HeldLogits], name: str, height: int, width: int) -> Iterator[Band]:
        """Yield (rows, q (M,K,rows,W)): a photograph of 24 megapixels as a whole would take 1 GB per member."""
        num_rows = max(1, BAND_BYTES // (4 * len(stores) * len(self.classes) * width))
        for start in range(0, height, num_rows):
            rows = slice(start, min(start + num_rows, height))
            q = np.empty((len(stores), len(self.classes), rows.stop - start, width), dtype=np.float32)
            joined = zip(stores, self._rule.views, self._rule.temperatures, strict=True)
            for m, (store, views, temperature) in enumerate(joined):
                probabilities.probabilities(store, views, name, out=q[m], temperature=temperature, rows=rows)
            yield rows, q

    def _logits(self, member: Member, model: Network, images: Mapping[str, Image]) -> _HeldLogits:
        amp = "fp16" if self._half else member.recipe.train.amp
        inference = Inference(model, member.short_px, self.device, self._batch_size, amp, self._flip_pairs)
        held = _HeldLogits(images, {})
        for name in member.views:
            view = View.parse(name)
            seen = view if self._tile is None else replace(view, tile=self._tile)
            held.by_view[name] = dict(view_logits(inference, _HeldImages(images), list(images), seen))
        return held


def resolve_device(name: str) -> str:
    """'auto' -> 'cuda' where there is one, else 'cpu'. Raises ValueError for a device that torch does not have here."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's builds differ in what they raise
        reason = str(error).splitlines()[0]
        raise ValueError(f"device must be one that torch has here, got {name!r} ({reason}); use cpu or auto") from error
    return name


def check_half(device: str, *, half: bool) -> None:
    """Raises ValueError where float16 is asked for and would be slower than float32."""
    if half and not device.startswith("cuda"):
        raise ValueError(f"--half needs a GPU, got device {device}, where float16 is slower than float32; leave it out")


def compile_network(network: Network, device: str) -> Network:
    """The network, compiled by torch. Raises ValueError with the reason where that cannot be done here."""
    compiled: Network = torch.compile(network)  # type: ignore[assignment]
    try:
        with torch.no_grad():
            compiled(torch.zeros(1, 3, 64, 64, device=device))
    except Exception as error:  # no compiler, no Triton, an operator it cannot do: dynamo's errors share no base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"--compile needs what torch.compile needs here, got: {reason:.300}; leave it out") from error
    return compiled


def class_scores(q: Float, vote: votes.Vote) -> Float:
    """(M,K,P) -> (K,P): soft and stacked, the weighted sums that the vote compares; geometric, the weighted means;
    hard, each class's number of votes."""
    _, num_classes, num_pixels = q.shape
    scores = np.zeros((num_classes, num_pixels), dtype=np.float32)
    if vote.kind == "soft":
        for k in range(num_classes):
            votes.class_scores(q, vote.weights, k, 0, num_pixels, scores[k])
        return scores
    if vote.kind == "stacked":
        return votes.stacked_scores(q, vote)
    if vote.kind == "geometric":
        logs = votes.log_scores(q, vote.weights) / np.maximum(vote.weights.sum(axis=0), np.float32(1e-12))[:, None]
        means: Float = np.exp(logs - logs.max(axis=0))  # the scale does not matter, and this one cannot vanish
        return means
    for m in vote.used:
        alone = votes.vote_labels(q[m : m + 1], votes.Vote("soft", np.ones((1, num_classes), dtype=np.float32)))
        for k in range(num_classes):
            scores[k] += alone == k
    return scores


@dataclass(frozen=True)
class _HeldImages:
    """An `ImageSource` of images in memory."""

    images: Mapping[str, Image]

    def image(self, image_id: str) -> Image:
        return self.images[image_id]

    def size(self, image_id: str) -> tuple[int, int]:
        height, width = self.images[image_id].shape[:2]
        return height, width


@dataclass(frozen=True)
class _OfBundle:
    trial: str = "of this bundle"


@dataclass(frozen=True)
class _HeldLogits:
    """A `LogitSource` of logits in memory."""

    images: Mapping[str, Image]
    by_view: dict[str, dict[str, NDArray[np.float16]]]  # view -> name -> (K,h,w)
    header: _OfBundle = _OfBundle()

    def logits(self, view: str, image_id: str) -> NDArray[np.float16]:
        return self.by_view[view][image_id]

    def size_px(self, _view: str, image_id: str) -> tuple[int, int]:
        height, width = self.images[image_id].shape[:2]
        return height, width


def _load(bundle: Bundle, member: Member) -> Network:
    try:
        model = load_network(member.recipe, len(bundle.manifest.classes), bundle.weights_paths(member))
    except ValueError as error:
        raise BundleError(str(error)) from error
    model.mean, model.std = member.mean, member.std  # the bundle's, whatever the installed timm says today
    return model


def _check_images(images: Mapping[str, Image]) -> None:
    for name, image in images.items():
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(
                f"image {name!r} must be RGB, uint8 (H,W,3), got {image.dtype} {image.shape}; convert it first"
            )
