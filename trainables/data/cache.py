"""The cache: a data set decoded once per machine, as memory-mapped pixels that all trials share.

Reading costs a page fault: image uint8 (H,W,3) RGB, label uint8 (H,W). The folder `<root>/<fingerprint>-v<format>/`
holds
    images.u8, labels.u8   all pixels in the order of the index, images of any size one after the other
    layout.npy             int64 (N,4): offset in images.u8, offset in labels.u8 (-1: unlabelled), height, width
    class_pixels.npy       int64 (N,K): labelled pixels of each class in each image
    meta.json              the sizes of the two pixel files in bytes, the image ids in their order, and a fingerprint
                           of the labels
    index-<hash>.json      the index, for processes that open the cache by its path; one for each place and name
                           under which the same data was opened
It is written beside its final name and renamed when complete, so it is there entirely or not at all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from trainables.data.card import DataProblems
from trainables.data.image_file import read_image
from trainables.data.index import Annotation, ImageRecord, MaskFile, MaskValues, SegIndex
from trainables.data.label_sources import label_source
from trainables.files import folder_made_whole, write_atomically

FORMAT = 3  # 1: painted by the area that the JSON claims; TIFFs turned by their tag. 2: no fingerprint of the labels
NUM_THREADS = 4
SPARE_BYTES = 64 * 2**20  # left free on the disk beyond the cache itself


class Cache:
    """Opened by `Cache.open`, or unpickled in another process of the machine: only its paths travel."""

    def __init__(self, folder: Path, index_file: str, index: SegIndex | None = None) -> None:
        self.folder = folder
        self._index_file = index_file
        self._index = index
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            self._layout: NDArray[np.int64] = np.load(folder / "layout.npy")  # (N,4)
            self._class_pixels: NDArray[np.int64] = np.load(folder / "class_pixels.npy")  # (N,K)
            self._images = _map_bytes(folder / "images.u8", meta["image_bytes"])
            self._labels = _map_bytes(folder / "labels.u8", meta["label_bytes"])
        except (OSError, EOFError, ValueError) as error:
            raise ValueError(f"the cache {folder} is damaged ({error}); delete that folder and start again") from error
        self._position = {image_id: n for n, image_id in enumerate(meta["image_ids"])}
        self.label_fingerprint: str = meta["label_fingerprint"]  # of classes and labels, whatever files gave them

    @classmethod
    def open(cls, index: SegIndex, root: Path) -> Cache:
        """Build the cache of `index` under `root` unless it is there, then map it.

        Safe when several processes of one machine start together: one builds, the others wait. Raises DataProblems
        naming every image that cannot be decoded or painted, and ValueError where the disk is too small or not
        writable, or the cache was damaged.
        """
        folder = root.absolute() / f"{index.fingerprint}-v{FORMAT}"
        index_file = _index_file(index)
        try:
            if not folder.is_dir():
                folder.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(folder.with_name(f"{folder.name}.lock")):
                    if not folder.is_dir():
                        _build(index, folder)
            if not (folder / index_file).is_file():
                _write_index(index, folder / index_file)
        except OSError as error:
            raise ValueError(
                f"the cache {folder} cannot be written ({error.strerror or error}); free some space on that "
                "disk, or name another folder for the cache"
            ) from error
        return cls(folder, index_file, index)

    def __reduce__(self) -> tuple[type[Cache], tuple[Path, str]]:
        return (Cache, (self.folder, self._index_file))

    @property
    def index(self) -> SegIndex:
        """The index that the cache was opened with, read back from its folder after a pickle."""
        if self._index is None:
            self._index = _read_index(self.folder / self._index_file)
        return self._index

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """Read-only RGB view (H,W,3), uint8."""
        start, _, height, width = self._layout[self._row(image_id)].tolist()
        return self._images[start : start + height * width * 3].reshape(height, width, 3)

    def label(self, image_id: str) -> NDArray[np.uint8]:
        """Read-only view (H,W) of class indices, uint8. ValueError for an image of the unlabelled file."""
        _, start, height, width = self._layout[self._row(image_id)].tolist()
        if start < 0:
            raise ValueError(f"image {image_id!r} has no label: it is from the card's unlabelled file")
        return self._labels[start : start + height * width].reshape(height, width)

    def size(self, image_id: str) -> tuple[int, int]:
        """Height and width in px."""
        _, _, height, width = self._layout[self._row(image_id)].tolist()
        return height, width

    def class_pixels(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Labelled pixels of each class in these images: int64 (K,). ValueError for an unlabelled image."""
        total: NDArray[np.int64] = self.class_pixels_by_image(ids).sum(axis=0, dtype=np.int64)
        return total

    def class_pixels_by_image(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Labelled pixels of each class in each of these images: int64 (N,K). ValueError for an unlabelled one."""
        rows = [self._row(image_id) for image_id in ids]
        for image_id, row in zip(ids, rows, strict=True):
            if self._layout[row, 1] < 0:
                raise ValueError(f"image {image_id!r} has no label: it is from the card's unlabelled file")
        pixels: NDArray[np.int64] = self._class_pixels[rows]
        return pixels

    def _row(self, image_id: str) -> int:
        try:
            return self._position[image_id]
        except KeyError:
            raise ValueError(
                f"image {image_id!r} is not in the cache {self.folder}; it holds {len(self._position)} others"
            ) from None


def _build(index: SegIndex, folder: Path) -> None:
    """Decode and rasterise everything into a temporary folder, then rename it. The lock is held."""
    for abandoned in folder.parent.glob(f".{folder.name}-*"):  # a builder was killed; the lock says none is left
        shutil.rmtree(abandoned)
    layout = _layout(index)
    image_bytes = int(sum(3 * height * width for _, _, height, width in layout.tolist()))
    label_bytes = int(sum(height * width for _, start, height, width in layout.tolist() if start >= 0))
    free_bytes = shutil.disk_usage(folder.parent).free
    needed_bytes = image_bytes + label_bytes + SPARE_BYTES
    if free_bytes < needed_bytes:
        raise ValueError(
            f"the cache of {len(index.images)} images needs {needed_bytes / 2**30:.2f} GiB under {folder.parent}, "
            f"which has {free_bytes / 2**30:.2f} GiB free; free some, or put the cache on a larger disk"
        )
    with folder_made_whole(folder) as temporary:
        np.save(temporary / "layout.npy", layout)
        class_pixels, label_digests = _write_pixels(index, layout, temporary)
        np.save(temporary / "class_pixels.npy", class_pixels)
        meta = {
            "format": FORMAT,
            "image_bytes": image_bytes,
            "label_bytes": label_bytes,
            "image_ids": [image.image_id for image in index.images],
            "label_fingerprint": _label_fingerprint(index, label_digests),
        }
        (temporary / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def _layout(index: SegIndex) -> NDArray[np.int64]:
    """Offsets and sizes: int64 (N,4), columns as in the module's docstring."""
    rows = []
    image_start = label_start = 0
    for image in index.images:
        labelled = image.role != "unlabelled"
        rows.append((image_start, label_start if labelled else -1, image.height, image.width))
        pixels = image.height * image.width
        image_start += 3 * pixels
        label_start += pixels * labelled
    return np.asarray(rows, dtype=np.int64).reshape(-1, 4)


def _label_fingerprint(index: SegIndex, digests: Sequence[str]) -> str:
    """Equal for equal labels of equally named images, whether annotations or masks gave them and in whatever order."""
    shape_and_label = {
        image.image_id: (image.height, image.width, digest)
        for image, digest in zip(index.images, digests, strict=True)
        if digest
    }
    content = json.dumps([index.classes, sorted(shape_and_label.items())])
    return hashlib.blake2b(content.encode(), digest_size=12).hexdigest()


def _write_pixels(index: SegIndex, layout: NDArray[np.int64], folder: Path) -> tuple[NDArray[np.int64], list[str]]:
    """Fill both pixel files with a few threads; the labelled pixels of each class, int64 (N,K), and the digest of each
    label, '' where there is none."""
    # Plain writes, not a writable map: a full disk is then an error here and not a bus error.
    with (folder / "images.u8").open("wb") as images, (folder / "labels.u8").open("wb") as labels:

        def write(n: int) -> tuple[NDArray[np.int64], str] | str:
            record = index.images[n]
            image_start, label_start, height, width = layout[n].tolist()
            try:
                pixels = read_image(record.path)
                if pixels.shape != (height, width, 3):
                    found = f"{pixels.shape[1]} x {pixels.shape[0]}"
                    raise ValueError(f"the index says {width} x {height} px, the file has {found}; read it again")
                _write_at(images.fileno(), pixels, image_start)
                if label_start < 0:
                    return np.zeros(index.num_classes, dtype=np.int64), ""
                label = label_source(index, record).label()
            except ValueError as error:
                return f"image {record.image_id}: {error}"
            _write_at(labels.fileno(), label, label_start)
            counts = np.bincount(label.ravel(), minlength=index.num_classes)[: index.num_classes]
            return counts, hashlib.blake2b(label.tobytes(), digest_size=16).hexdigest()

        with ThreadPoolExecutor(max_workers=NUM_THREADS) as pool:
            rows = list(pool.map(write, range(len(index.images))))
    problems = [row for row in rows if isinstance(row, str)]
    if problems:
        raise DataProblems(problems)
    sound = [row for row in rows if not isinstance(row, str)]
    return np.stack([counts for counts, _ in sound]).astype(np.int64), [digest for _, digest in sound]


def _write_at(descriptor: int, pixels: NDArray[np.uint8], start: int) -> None:
    left = memoryview(np.ascontiguousarray(pixels).data).cast("B")
    while left:
        written = os.pwrite(descriptor, left, start)
        left, start = left[written:], start + written


def _map_bytes(path: Path, num_bytes: int) -> NDArray[np.uint8]:
    if path.stat().st_size != num_bytes:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes where {num_bytes} were written")
    if num_bytes == 0:
        return np.zeros(0, dtype=np.uint8)
    return np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))


def _index_file(index: SegIndex) -> str:
    """Name of the index file, by what the fingerprint leaves open: the data's place and its name in the card."""
    places: list[Any] = [index.name, index.licences, [str(image.path) for image in index.images]]
    if index.mask_values is not None:
        places.append([str(image.mask.path) for image in index.images if image.mask is not None])
    return f"index-{hashlib.blake2b(json.dumps(places).encode(), digest_size=8).hexdigest()}.json"


def _write_index(index: SegIndex, path: Path) -> None:
    content = json.dumps(vars(index), default=_plain)

    def write(temporary: Path) -> None:
        temporary.write_text(content, encoding="utf-8")
        temporary.chmod(0o644)  # whatever the umask: others who share the machine read it too

    write_atomically(path, write)


def _plain(value: object) -> object:
    """Records and annotations as mappings, paths as text, and the counts of an RLE that came as bytes (ASCII)."""
    if dataclasses.is_dataclass(value):
        return vars(value)  # asdict would copy every polygon
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


def _read_index(path: Path) -> SegIndex:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for image in content["images"]:
        image["path"] = Path(image["path"])
        image["annotations"] = tuple(Annotation(**each) for each in image["annotations"])
        if (mask := image["mask"]) is not None:
            image["mask"] = MaskFile(Path(mask["path"]), mask["digest"], tuple(mask["class_pixels"]))
    content["images"] = tuple(ImageRecord(**image) for image in content["images"])
    if (values := content["mask_values"]) is not None:
        content["mask_values"] = MaskValues(_pairs(values["class_of"]), values["colours"])
    content["flip_pairs"] = _pairs(content["flip_pairs"])
    for key in ("classes", "licences"):
        content[key] = tuple(content[key])
    return SegIndex(**content)


def _pairs(rows: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((first, second) for first, second in rows)
