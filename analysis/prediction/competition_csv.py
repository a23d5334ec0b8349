"""The CSV file that a competition takes: `image_id,PredictionString`, a row per image, its label map made smaller.

A mask (H,W) is taken to the layout's size by nearest neighbour, y -> floor(y * H / height), as OpenCV's INTER_NEAREST
does it, and written row by row as class numbers. A file is read back and checked before it takes its name.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.prediction.inputs import file_names
from analysis.prediction.job import CsvLayout
from trainables.data.card import CocoPart, DataProblems, read_card
from trainables.data.image_folder import images_under
from trainables.files import write_atomically

Label = NDArray[np.uint8]  # (H,W)
MAX_CELL = 2**31 - 1  # characters; a mask is far longer than the csv module's own limit


def write_submission(
    path: Path,
    names: Sequence[str],
    label_of: Callable[[str], Label],
    layout: CsvLayout,
    rule: tuple[int, Sequence[str] | None],
) -> None:
    """Write the file. `rule` is the number of classes, and the rows that there must be, in their order (None: `names`).

    Raises ValueError, and leaves what was there, where names are doubled, missing or unexpected, or what was written
    does not read back as it should.
    """
    num_classes, expected = rule
    check_names(names, names if expected is None else expected)
    ordered = list(names if expected is None else expected)

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(layout.columns)
            rows.writerows((name, cell(label_of(name), layout)) for name in ordered)
        check_file(temporary, ordered, layout, num_classes)

    write_atomically(path, write)


def cell(label: Label, layout: CsvLayout) -> str:
    """label (H,W) -> the numbers of the smaller mask, row by row."""
    return layout.separator.join(map(str, nearest(label, layout.height_px, layout.width_px).ravel().tolist()))


def nearest(label: Label, height_px: int, width_px: int) -> Label:
    """(H,W) -> (height_px, width_px)."""
    height, width = label.shape
    rows, columns = np.arange(height_px) * height // height_px, np.arange(width_px) * width // width_px
    smaller: Label = label[rows[:, None], columns]
    return smaller


def check_names(names: Sequence[str], expected: Sequence[str]) -> None:
    """Raises DataProblems that name every row that is missing, not expected, or there twice."""
    found, wanted = set(names), set(expected)
    doubled = sorted(
        {name for listed in (names, expected) if len(set(listed)) < len(listed) for name in _twice(listed)}
    )
    problems = [f"a row per image is needed, got {name!r} twice; list it once" for name in doubled]
    problems += [
        f"{name!r} must have a row, got no prediction of it; add the image to the inputs"
        for name in expected
        if name not in found
    ]
    problems += [
        f"{name!r} is not among the images that were asked for; take it out of the inputs"
        for name in names
        if name not in wanted
    ]
    if problems:
        raise DataProblems(problems)


def _twice(names: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)


def check_file(path: Path, names: Sequence[str], layout: CsvLayout, num_classes: int) -> None:
    """Raises ValueError naming the first row of a submission that is not as the layout, the names and the number of
    classes have it."""
    with _long_cells(), path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        head = next(rows, [])
        if head != list(layout.columns):
            raise ValueError(
                f"the header must be {','.join(layout.columns)}, got {','.join(head)!r:.80}; write it again"
            )
        wanted = iter(names)
        for number, row in enumerate(rows, 2):
            name = next(wanted, None)
            if len(row) != 2 or row[0] != name:
                raise ValueError(
                    f"line {number} must be the row of {name!r}, got {row[:1]!r:.80}; write the file again"
                )
            _check_cell(row[1], name, layout, num_classes)
        left = next(wanted, None)
    if left is not None:
        raise ValueError(f"every image must have a row, got none of {left!r}; write the file again")


def _check_cell(text: str, name: str, layout: CsvLayout, num_classes: int) -> None:
    values, count = text.split(layout.separator), layout.height_px * layout.width_px
    if len(values) != count:
        raise ValueError(f"the row of {name!r} must have {count} numbers, got {len(values)}; predict it again")
    odd = set(values) - {str(k) for k in range(num_classes)}
    if odd:
        raise ValueError(
            f"the row of {name!r} must have classes from 0 to {num_classes - 1}, got {min(odd)!r:.20}; the predictions "
            "are of another bundle: predict again"
        )


@contextmanager
def _long_cells() -> Iterator[None]:
    before = csv.field_size_limit(MAX_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def expected_names(path: Path, layout: CsvLayout) -> list[str]:
    """The images that a submission must have, in their order: those of a COCO file, of a competition's sample CSV, or
    the unlabelled ones of a data card. Raises ValueError where the file is none of these or names none."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        names = file_names(path)
    elif suffix == ".csv":
        names = _sample_names(path, layout.columns[0])
    elif suffix in (".yaml", ".yml"):
        names = _card_names(path)
    else:
        raise ValueError(
            f"--expected must be a COCO file (.json), a sample .csv or a card (.yaml), got {path}; give one"
        )
    if not names or not all(names):
        raise ValueError(
            f"--expected must name the images, got {path} with none, or with one without a name; correct it"
        )
    return names


def _sample_names(path: Path, column: str) -> list[str]:
    try:
        with _long_cells(), path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if column not in (rows.fieldnames or []):
                raise ValueError(
                    f"{path} must have the column {column!r}, got {rows.fieldnames!r:.200}; name the columns"
                )
            return [row[column] or "" for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"--expected must be a CSV file that can be read, got {path} ({error}); check it") from error


def _card_names(path: Path) -> list[str]:
    parts = read_card(path).unlabelled
    if not parts:
        raise ValueError(f"--expected needs a card with unlabelled images, got {path} without; add `unlabelled: ...`")
    return [
        name
        for part in parts
        for name in (file_names(part.coco) if isinstance(part, CocoPart) else images_under(part.images)[0])
    ]
