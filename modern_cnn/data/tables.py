"""Image files that a table lists, a CSV file with the columns path, label and perhaps split."""
import csv
import os
from pathlib import Path

import numpy as np

from modern_cnn.data.folders import SPLITS, composed, decode_files, split_of
from modern_cnn.data.spec import Arrays, Files
from modern_cnn.errors import UserError, some

COLUMNS = ("path", "label")  # and perhaps 'split'; others are not read


def _rows(table: Path) -> list[tuple[int, str, str, str]]:
    """Return (line, path, label, split) of each row of a table; the split is 'train' where there is no such column."""
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = [name.strip() for name in reader.fieldnames or ()]
            if not names:
                raise UserError(f"{table} is empty: its first line must be path,label or path,label,split")
            missing = [name for name in COLUMNS if names.count(name) != 1]
            if missing:
                raise UserError(f"{table} has no column {missing[0]!r}, or two: its first line must be path,label or "
                                f"path,label,split, and it is {','.join(names)[:200]}")
            reader.fieldnames = names
            rows = []
            for row in reader:
                if None in row:
                    raise UserError(f"{table}, line {reader.line_num}: it has more cells than the first line; a cell "
                                    'with a comma in it must stand in quotes: "crane, bird"')
                cells = [(row.get(name) or "").strip() for name in (*COLUMNS, *(["split"] * ("split" in names)))]
                if "" in cells:
                    raise UserError(f"{table}, line {reader.line_num}: a path, a label or a split is missing")
                cells[1] = composed(cells[1])
                rows.append((reader.line_num, *cells, *(["train"] * ("split" not in names))))
    except (UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{table} is not a CSV file in UTF-8: {e}") from e
    if not rows:
        raise UserError(f"{table} lists no images: it has a first line only")
    return rows


def list_csv(table: Path) -> tuple[dict[str, Files], list[str]]:
    """Return ({split: its files}, class names) of a table; a path that is not absolute begins in the table's folder.

    The classes are the labels of the training split, in the order of the numbers if all are numbers, else of the
    alphabet. Without a test split the validation split is the test split, as in a folder. Raise UserError, with the
    line, for a file that does not exist or is listed twice, an unknown split, or a label of which none is in train.
    """
    listed: dict[str, list[tuple[int, Path, str]]] = {}
    lines: dict[str, int] = {}
    for line, name, label, word in _rows(table):
        split, path = split_of(word), table.parent / name
        if not split:
            raise UserError(f"{table}, line {line}: the split {word!r} is none of {', '.join(dict.fromkeys(SPLITS))}")
        if not path.is_file():
            raise UserError(f"{table}, line {line}: there is no file {path}")
        if (plain := os.path.normpath(path)) in lines:
            raise UserError(f"{table}, line {line}: {name} is listed in line {lines[plain]} already")
        lines[plain] = line
        listed.setdefault(split, []).append((line, path, label))
    if "train" not in listed:
        raise UserError(f"{table} has no row of the split train, only of {', '.join(listed)}")
    labels = {label for _, _, label in listed["train"]}
    classes = sorted(labels, key=lambda label: (len(label) if all(map(str.isdecimal, labels)) else 0, label))
    if len(classes) < 2:
        raise UserError(f"{table} has one class only in its training split, {classes[0]}: add images of the others")
    for line, _, label in (row for rows in listed.values() for row in rows):
        if label not in labels:
            raise UserError(f"{table}, line {line}: the class {label!r} is not among those of the training split: "
                            f"{some(classes)}")
    if "test" not in listed and "validation" in listed:
        listed["test"] = listed.pop("validation")
    numbers = {name: number for number, name in enumerate(classes)}
    return {split: Files([path for _, path, _ in rows], np.array([numbers[label] for *_, label in rows], np.int32))
            for split, rows in listed.items()}, classes


def read_csv(table: Path, size: int, skip_damaged: bool = False,
             scaled: int = 0) -> tuple[dict[str, Arrays], list[str], int]:
    """Read the images of `list_csv`; the arguments, the result and the errors are those of `folders.read_folder`."""
    listed, classes = list_csv(table)
    splits, left_out = decode_files(listed, str(table.parent), size, skip_damaged, scaled)
    return splits, classes, left_out
