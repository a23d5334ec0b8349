"""Finds near-duplicate images by perceptual hashes, so that a split can keep them together.

Two images are near-duplicates where three measures agree: the signs of low cosine frequencies (pHash: Zauner,
"Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1), the signs of horizontal
differences (dHash: Krawetz, "Kind of Like That", 2013), and the correlation of 16 x 16 grey thumbnails, which rejects
chance agreements of flat pictures. Clusters are transitive: the frames of one shot chain into one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

NUM_THREADS = 4
MAX_BITS = 14  # of 64, for each of the two hashes; unrelated pictures differ in 32, give or take 4
MIN_CORRELATION = 0.9
THUMB_PX = 16
FLAT = 2.0  # grey levels of standard deviation: below it a picture has no content to compare


@dataclass(frozen=True)
class Hashes:
    """Hashes of N images: 8 + 8 + 1024 bytes each."""

    image_ids: tuple[str, ...]
    cosine: NDArray[np.uint64]  # (N,)
    gradient: NDArray[np.uint64]  # (N,)
    thumbs: NDArray[np.float32]  # (N,256), mean 0 and length 1: their dot product is a correlation; flat ones are 0

    def take(self, rows: Sequence[int] | NDArray[np.intp]) -> Hashes:
        kept = np.asarray(rows, np.intp)
        ids = tuple(self.image_ids[n] for n in kept)
        return Hashes(ids, self.cosine[kept], self.gradient[kept], self.thumbs[kept])


OneHash = tuple[int, int, NDArray[np.float32]]


def hash_image(image: NDArray[np.uint8]) -> OneHash:
    """Cosine hash, gradient hash and thumbnail (256,) of one RGB image (H,W,3)."""
    grey = cv2.resize(
        cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY), (64, 64), interpolation=cv2.INTER_AREA
    )
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = np.asarray(cv2.dct(small))[1:9, 1:9].ravel()  # (64,) without the constant terms, which only tell brightness
    steps = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    thumb = cv2.resize(grey, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    thumb -= thumb.mean()
    length = float(np.linalg.norm(thumb))
    thumb = thumb / length if length > FLAT * THUMB_PX else np.zeros_like(thumb)
    return _bits(low > np.median(low)), _bits((np.diff(steps, axis=1) > 0).ravel()), thumb


def gather(image_ids: Sequence[str], rows: Iterable[OneHash]) -> Hashes:
    """One `Hashes` from the hashes of single images, in the order of the ids."""
    found = list(rows)
    return Hashes(
        tuple(image_ids),
        np.array([row[0] for row in found], np.uint64),
        np.array([row[1] for row in found], np.uint64),
        np.stack([row[2] for row in found]) if found else np.zeros((0, THUMB_PX**2), np.float32),
    )


def hash_images(image_ids: Sequence[str], read: Callable[[str], NDArray[np.uint8]]) -> Hashes:
    """Hash every image with a few threads; `read` gives (H,W,3), such as `cache.image`."""
    with ThreadPoolExecutor(max_workers=NUM_THREADS) as pool:
        return gather(image_ids, pool.map(lambda image_id: hash_image(read(image_id)), image_ids))


def cluster(hashes: Hashes) -> NDArray[np.int64]:
    """(N,): for every image the lowest position in its cluster of near-duplicates, its own where it has none."""
    return np.asarray(_clusters(hashes.cosine, hashes.gradient, hashes.thumbs, MAX_BITS, np.float32(MIN_CORRELATION)))


def cluster_names(hashes: Hashes) -> dict[str, str]:
    """image_id -> the image_id that names its cluster of near-duplicates."""
    roots = cluster(hashes)
    return {image_id: hashes.image_ids[root] for image_id, root in zip(hashes.image_ids, roots, strict=True)}


def nearest(of: Hashes, among: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each of N images the position of its nearest in another set (N,), by the bits that differ in both hashes
    together (N,), at most 128. Raises ValueError for an empty other set."""
    if not among.image_ids:
        raise ValueError("nearest images need a set to look in, got an empty one; give images")
    position, bits = _nearest(of.cosine, of.gradient, among.cosine, among.gradient)
    return np.asarray(position), np.asarray(bits)


def are_near(a: Hashes, row_a: int, b: Hashes, row_b: int) -> bool:
    """Whether two images are near-duplicates."""
    cosine = int(a.cosine[row_a] ^ b.cosine[row_b]).bit_count()
    gradient = int(a.gradient[row_a] ^ b.gradient[row_b]).bit_count()
    alike = float(a.thumbs[row_a] @ b.thumbs[row_b])
    return cosine <= MAX_BITS and gradient <= MAX_BITS and alike >= MIN_CORRELATION


def _bits(signs: NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(signs).tobytes(), "big")  # (64,) -> 64 bits


@numba.njit(cache=True, nogil=True, fastmath=False)
def _popcount(bits):  # type: ignore[no-untyped-def] # uint64 -> how many of its bits are 1, summed in parallel halves
    bits = bits - ((bits >> np.uint64(1)) & np.uint64(0x5555555555555555))
    bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (bits * np.uint64(0x0101010101010101)) >> np.uint64(56)


@numba.njit(cache=True, nogil=True, fastmath=False)
def _root(parent, n):  # type: ignore[no-untyped-def]
    while parent[n] != n:
        parent[n] = parent[parent[n]]
        n = parent[n]
    return n


@numba.njit(cache=True, nogil=True, fastmath=False)
def _clusters(cosine, gradient, thumbs, max_bits, min_correlation):  # type: ignore[no-untyped-def]
    parent = np.arange(cosine.size)
    for i in range(cosine.size):
        for j in range(i + 1, cosine.size):
            if _popcount(cosine[i] ^ cosine[j]) > max_bits or _popcount(gradient[i] ^ gradient[j]) > max_bits:
                continue
            a, b = _root(parent, i), _root(parent, j)
            if a == b:
                continue
            alike = np.float32(0)
            for x in range(thumbs.shape[1]):
                alike += thumbs[i, x] * thumbs[j, x]
            if alike >= min_correlation:
                parent[max(a, b)] = min(a, b)
    for n in range(parent.size):
        parent[n] = _root(parent, n)
    return parent


@numba.njit(cache=True, nogil=True, fastmath=False)
def _nearest(cosine, gradient, other_cosine, other_gradient):  # type: ignore[no-untyped-def]
    position = np.zeros(cosine.size, np.int64)
    bits = np.full(cosine.size, 129, np.int64)
    for i in range(cosine.size):
        for j in range(other_cosine.size):
            found = np.int64(_popcount(cosine[i] ^ other_cosine[j]) + _popcount(gradient[i] ^ other_gradient[j]))
            if found < bits[i]:
                bits[i], position[i] = found, j
    return position, bits
