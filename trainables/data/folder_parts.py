"""Parts of a card that are folders: images with label masks, and images without labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from trainables.data.card import DataCard, Findings, ImagePart, MaskPart, is_background
from trainables.data.foreign_formats import foreign_hint
from trainables.data.image_file import probe_image
from trainables.data.image_folder import ImageFolder, files_under, images_under
from trainables.data.index import BACKGROUND, IGNORE_INDEX, ImageRecord, MaskFile, MaskValues, Role
from trainables.data.loaded_part import CategoryUse
from trainables.data.masks import first_few, scan_masks

MASK_SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff"})
NUM_THREADS = 8  # they wait for the disk


@dataclass(frozen=True)
class MaskFolder:
    """Images and their masks."""

    role: Role
    name: str
    folder: ImageFolder
    masks: Mapping[str, Path]  # of each image, by its relative name, in order
    licences: tuple[str, ...] = ()

    def category_use(self) -> CategoryUse:
        """None: the card names the classes."""
        return CategoryUse()

    def class_names(
        self,
        card: DataCard,
        roots: Collection[str],  # noqa: ARG002
        findings: Findings,  # noqa: ARG002
    ) -> dict[object, str]:
        """Those of the card."""
        return {name: name for name in card_classes(card)}

    def records(
        self, class_of: Mapping[object, int], values: MaskValues | None, findings: Findings
    ) -> list[ImageRecord]:
        """One record for every sound mask, with the mask's size."""
        assert values is not None, "a card with masks has classes"
        num_classes = len(set(class_of.values()) - {IGNORE_INDEX})
        scans = scan_masks(self.name, list(self.masks.values()), values, num_classes, findings)
        return [
            _record(self.role, self.folder, name, (scan.height, scan.width), scan.file)
            for name, scan in zip(self.masks, scans, strict=True)
            if scan is not None
        ]

    def digest(self, records: Sequence[ImageRecord]) -> str:
        """Of the images' ids and the masks' bytes."""
        return _digest([[record.image_id, record.mask.digest] for record in records if record.mask is not None])


@dataclass(frozen=True)
class UnlabelledFolder:
    """Images alone."""

    role: Role
    name: str
    folder: ImageFolder
    images: tuple[str, ...]
    licences: tuple[str, ...] = ()

    def category_use(self) -> CategoryUse:
        """None: it has no labels."""
        return CategoryUse()

    def class_names(
        self,
        card: DataCard,  # noqa: ARG002
        roots: Collection[str],  # noqa: ARG002
        findings: Findings,  # noqa: ARG002
    ) -> dict[object, str] | None:
        """None: it has no labels."""
        return None

    def records(
        self,
        class_of: Mapping[object, int],  # noqa: ARG002
        values: MaskValues | None,  # noqa: ARG002
        findings: Findings,  # noqa: ARG002
    ) -> list[ImageRecord]:
        """One record per image; one that cannot be read has size 0, and is reported when all images are checked."""
        with ThreadPoolExecutor(max_workers=NUM_THREADS) as pool:
            sizes = list(pool.map(_size, (self.folder.folder / name for name in self.images)))
        return [_record(self.role, self.folder, name, size) for name, size in zip(self.images, sizes, strict=True)]

    def digest(self, records: Sequence[ImageRecord]) -> str:
        """Of the images' ids."""
        return _digest([record.image_id for record in records])


def load_masks(role: Role, part: MaskPart, card: DataCard, findings: Findings) -> MaskFolder:
    """Pair images and masks by name. Missing and doubled partners are errors; raises ValueError for no folder."""
    folder, images = _images(role, part.images, card, findings)
    name = card.shown(part.masks)
    if not part.masks.is_dir():
        hint = foreign_hint(part.masks, name)
        raise ValueError(f"{name}: masks must be a folder, got {part.masks}; correct {role} in the card{hint}")
    found = sorted(files_under(part.masks, follow_links=card.follow_links))
    by_stem: dict[str, list[Path]] = {}
    for path in found:
        if path.suffix.lower() in MASK_SUFFIXES:
            by_stem.setdefault(_stem(path.relative_to(part.masks).as_posix()), []).append(path)
    _refuse_doubles(name, "masks", [[path.name for path in paths] for paths in by_stem.values()], findings)
    stems: dict[str, list[str]] = {}
    for image in images:
        stems.setdefault(_stem(image), []).append(image)
    _refuse_doubles(folder.name, "images", list(stems.values()), findings)
    lone = [image for image in images if _stem(image) not in by_stem]
    if lone:
        findings.error(
            f"{name}: {len(lone)} of {len(images)} images of {folder.name} have no mask ({first_few(lone)})"
            f"{_odd(found)}; a mask has its image's name but for the suffix: rename or add them, or move the images "
            f"elsewhere{'' if by_stem else foreign_hint(part.masks, name)}"
        )
    spare = [paths[0].relative_to(part.masks).as_posix() for stem, paths in by_stem.items() if stem not in stems]
    if spare:
        findings.error(
            f"{name}: {len(spare)} of {len(by_stem)} masks have no image in {folder.name} ({first_few(spare)}); rename "
            "or add the images, or move the masks elsewhere"
        )
    masks = {image: by_stem[_stem(image)][0] for image in images if _stem(image) in by_stem}
    return MaskFolder(role, name, folder, masks)


def load_images(role: Role, part: ImagePart, card: DataCard, findings: Findings) -> UnlabelledFolder:
    """List a folder. Raises ValueError for one that is absent or has no image."""
    folder, images = _images(role, part.images, card, findings)
    return UnlabelledFolder(role, folder.name, folder, tuple(images))


def card_classes(card: DataCard) -> list[str]:
    """The classes that the card names, the background spelt BACKGROUND."""
    names = card.classes.names if card.classes is not None else ()
    return [BACKGROUND if card.background and is_background(name) else name for name in names]


def _images(role: Role, place: Path, card: DataCard, findings: Findings) -> tuple[ImageFolder, list[str]]:
    folder = ImageFolder(place, card.root, follow_links=card.follow_links)
    if not place.is_dir():
        hint = foreign_hint(place, folder.name)
        raise ValueError(f"{folder.name}: images must be a folder, got {place}; correct {role} in the card{hint}")
    images, others = images_under(place, follow_links=card.follow_links)
    if not images:
        hint = foreign_hint(place, folder.name)
        raise ValueError(f"{folder.name}: holds no image; correct {role} in the card, or leave it out{hint}")
    for other in others:
        findings.warn(folder.name, "file that is no image, left out", other)
    sound = []
    for name in images:
        try:
            folder.path_of(name)
            sound.append(name)
        except ValueError as error:
            findings.error(f"{folder.name}: {name}: {error}")
    return folder, sound


def _record(
    role: Role,
    folder: ImageFolder,
    name: str,
    size: tuple[int, int],
    mask: MaskFile | None = None,
) -> ImageRecord:
    image_id = folder.image_id(name)
    return ImageRecord(image_id, folder.folder / name, *size, image_id, role, mask=mask)


def _size(path: Path) -> tuple[int, int]:
    try:
        file = probe_image(path)
    except (OSError, ValueError):  # reported when all images are checked
        return 0, 0
    return file.height, file.width


def _refuse_doubles(name: str, what: str, groups: Sequence[list[str]], findings: Findings) -> None:
    for names in groups:
        if len(names) > 1:
            findings.error(f"{name}: {what} must differ in more than the suffix, got {' and '.join(names)}; keep one")


def _odd(found: Sequence[Path]) -> str:
    """Files beside the masks that are none, as these may be what was meant."""
    odd = sorted({path.suffix for path in found if path.suffix.lower() not in MASK_SUFFIXES})
    return f", while files {', '.join(odd)} are no masks ({', '.join(sorted(MASK_SUFFIXES))})" if odd else ""


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _digest(content: object) -> str:
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
