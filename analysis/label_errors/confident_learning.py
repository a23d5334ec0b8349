"""Ranks labels that look wrong to models that have not seen them: annotations, images, and objects without annotation.

Out-of-sample probabilities (K,H,W) are read one image after the other; suspects come most suspicious first. Only one
image's arrays are held at a time.

Confident learning (Northcutt, Jiang & Chuang 2021, section 3.1): a class is believed where its probability reaches
the mean that it has over pixels labelled so, t_k: that finds objects without annotation. Annotations are ranked by the
margin between the best rival and their own class, over the pixels that they paint. (Margins of distances from t_k put
whatever resembled a rare class first, since a rare class has a low t_k; a rival that must reach t_k left most planted
errors out.) An image's score is the softmin of its pixels' self-confidence (Lad & Mueller 2023, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from trainables.data.index import Annotation, ImageRecord, SegIndex
from trainables.data.label_sources import label_source
from trainables.data.raster import in_painting_order, segmentation_mask
from trainables.metrics import confusion, miou

Float = NDArray[np.float32]
Probabilities = Callable[[str], Float]  # image_id -> (K,H,W)
Label = Callable[[str], NDArray[np.uint8]]  # image_id -> (H,W)
Kind = Literal["relabel", "remove", "add"]
TEMPERATURE = 0.1  # of the softmin
MIN_OBJECT_SHARE = 0.001  # of an image's pixels: smaller confident regions are edges and specks
OPENING_PX = 5  # what is thinner is the seam of an object
FEW_PX = 50  # an annotation of so many pixels counts half
PRIOR_PIXELS = 200
SAME_REGION = 0.5  # share of a region that one suspect annotation covers, for the region to be that annotation's


@dataclass(frozen=True)
class Suspect:
    """`suspicion` is 0.5 where the label and its rival are believed alike, 1 where the rival is certain."""

    kind: Kind
    image_id: str
    annotation_id: int | None  # None: a region without an annotation of its own
    given: str
    suggested: str
    suspicion: float
    area_px: int
    box: tuple[int, int, int, int]  # x, y, width, height
    counts: str = ""  # compressed COCO RLE of a region


@dataclass(frozen=True)
class SuspectRanking:
    """The suspects among the labels that were judged, and a score per image."""

    suspects: list[Suspect]  # most suspicious first
    image_scores: dict[str, float]  # image_id -> 1 - softmin, of every image that was judged
    miou: float  # of the models together, against the labels that they judge
    num_annotations: int  # or regions of masks, of the images that were judged

    @property
    def suspected_share(self) -> float:
        """Of the annotations, those that are suspected."""
        return sum(suspect.annotation_id is not None for suspect in self.suspects) / max(1, self.num_annotations)


def class_confidence(index: SegIndex, ids: Sequence[str], probabilities: Probabilities, label: Label) -> Float:
    """t_k (K,): the mean probability of class k over pixels labelled k, drawn to that of all where they are few."""
    total, count = np.zeros(index.num_classes), np.zeros(index.num_classes)
    for image_id in ids:
        given = label(image_id)[::3, ::3]  # a ninth of the pixels is plenty for K means
        probability = probabilities(image_id)[:, ::3, ::3]
        rows, columns = np.nonzero(given != index.ignore_index)
        classes = given[rows, columns]
        total += np.bincount(classes, weights=probability[classes, rows, columns], minlength=index.num_classes)
        count += np.bincount(classes, minlength=index.num_classes)
    overall = total.sum() / count.sum() if count.any() else 1 / index.num_classes
    means: Float = ((total + PRIOR_PIXELS * overall) / (count + PRIOR_PIXELS)).astype(np.float32)
    return means


def find_suspects(
    index: SegIndex,
    ids: Sequence[str],
    probabilities: Probabilities,
    label: Label,
    confidence: Float,  # (K,)
    *,
    least: float = 0.5,
) -> SuspectRanking:
    """Rank all labels with more than `least` suspicion, and score every image."""
    records = index.by_id()
    suspects: list[Suspect] = []
    images: dict[str, float] = {}
    counts, num_annotations = np.zeros((index.num_classes, index.num_classes), np.int64), 0
    for image_id in ids:
        probability, given = probabilities(image_id), label(image_id)
        counts += confusion(given, probability.argmax(axis=0).astype(np.uint8), index.num_classes, index.ignore_index)
        owner, ordered = _owners(index, records[image_id])
        num_annotations += len(ordered)
        found, painted = _annotations(index, image_id, owner, ordered, probability)
        found += _regions(index, records[image_id], probability, confidence, given, painted)
        suspects += [suspect for suspect in found if suspect.suspicion > least]
        images[image_id] = _image_score(probability, given, index.ignore_index)
    ranked = sorted(suspects, key=lambda s: (-s.suspicion, s.image_id, s.annotation_id or -1))
    return SuspectRanking(ranked, images, float(miou(counts)), num_annotations)


def _owners(index: SegIndex, record: ImageRecord) -> tuple[NDArray[np.int32], list[Annotation]]:
    """(H,W): which annotation a pixel shows, -1 for none, painted in the order of the labels."""
    owner = np.full((record.height, record.width), -1, np.int32, order="F")
    ordered = in_painting_order(label_source(index, record).objects())
    for position, annotation in enumerate(ordered):
        mask = segmentation_mask(annotation.segmentation, record.height, record.width)
        owner[mask.view(np.bool_)] = position
    return np.ascontiguousarray(owner), ordered


def _annotations(
    index: SegIndex, image_id: str, owner: NDArray[np.int32], ordered: Sequence[Annotation], probability: Float
) -> tuple[list[Suspect], dict[int, NDArray[np.bool_]]]:
    """Every annotation that paints a pixel, with its rival; and the masks (H,W) of those that are suspect."""
    flat = owner.ravel() + 1
    area = np.bincount(flat, minlength=len(ordered) + 1)[1:]  # (A,)
    sums = np.stack(
        [np.bincount(flat, weights=p.ravel(), minlength=len(ordered) + 1)[1:] for p in probability]
    )  # (K,A)
    found: list[Suspect] = []
    masks: dict[int, NDArray[np.bool_]] = {}
    for position, annotation in enumerate(ordered):
        k = annotation.class_index
        if area[position] == 0 or k == index.ignore_index:
            continue
        means = sums[:, position] / area[position]  # (K,)
        rivals = means.copy()
        rivals[k] = -np.inf
        rival = int(np.argmax(rivals))
        score = _suspicion(float(means[rival] - means[k]), int(area[position]))
        mask = owner == position
        kind: Kind = "remove" if index.background and rival == 0 else "relabel"
        names = (index.classes[k], index.classes[rival])
        found.append(Suspect(kind, image_id, annotation.annotation_id, *names, score, int(area[position]), _box(mask)))
        if score > 0.5:
            masks[rival] = masks.get(rival, np.zeros(mask.shape, bool)) | mask
    return found, masks


def _regions(
    index: SegIndex,
    record: ImageRecord,
    probability: Float,
    confidence: Float,
    given: NDArray[np.uint8],
    painted: Mapping[int, NDArray[np.bool_]],
) -> list[Suspect]:
    """Connected regions where another class than the label's is believed: objects without an annotation, and parts of
    an annotation that show something else. Those that a suspect annotation explains are left to it."""
    best = probability.argmax(axis=0)  # (H,W)
    top = np.take_along_axis(probability, best[None], axis=0)[0]
    labelled = given != index.ignore_index
    own = np.take_along_axis(probability, np.where(labelled, given, 0)[None].astype(np.intp), axis=0)[0]
    wrong = labelled & (best != given) & (top >= confidence[best])
    least_px = max(OPENING_PX**2, round(MIN_OBJECT_SHARE * given.size))
    kernel = np.ones((OPENING_PX, OPENING_PX), np.uint8)
    regions = []
    for k in np.unique(best[wrong]).tolist():
        if index.background and k == 0:
            continue  # a hole in an object is its outline's business
        opened = cv2.morphologyEx((wrong & (best == k)).astype(np.uint8), cv2.MORPH_OPEN, kernel)
        num, components, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
        for n in range(1, num):
            x, y, width, height, area = (int(value) for value in stats[n])
            mask = components == n
            explained = painted.get(k)
            if area < least_px or (explained is not None and explained[mask].mean() > SAME_REGION):
                continue
            under = int(np.bincount(given[mask], minlength=index.num_classes)[: index.num_classes].argmax())
            counts = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode("ascii")
            score = _suspicion(float((top[mask] - own[mask]).mean()), area)
            names = (index.classes[under], index.classes[k])
            regions.append(Suspect("add", record.image_id, None, *names, score, area, (x, y, width, height), counts))
    return regions


def _suspicion(margin: float, area_px: int) -> float:
    """The suspicion (0 to 1) of a rival's margin (-1 to 1), less where there are few pixels."""
    return 0.5 + 0.5 * margin * area_px / (area_px + FEW_PX)


def _image_score(probability: Float, given: NDArray[np.uint8], ignore_index: int) -> float:
    rows, columns = np.nonzero(given != ignore_index)
    if rows.size == 0:
        return 0.0
    own = probability[given[rows, columns], rows, columns].astype(np.float64)
    weight = np.exp((own.min() - own) / TEMPERATURE)
    return float(1 - (own * weight).sum() / weight.sum())


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return int(x), int(y), int(width), int(height)
