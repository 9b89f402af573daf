"""Images that a CSV file lists: the same as from folders, and one line for each mistake in the table."""
import os
from pathlib import Path

import numpy as np
import pytest

from modern_cnn import settings
from modern_cnn.data import sources
from modern_cnn.errors import UserError
from tests.data import files


def write(table, *lines, encoding="utf-8"):
    Path(table).write_text("".join(f"{line}\n" for line in lines), encoding)
    return f"csv:{table}"


@pytest.fixture
def photos(tmp_path):
    """A folder of five cats and five dogs, and a table beside them, which does not list the last cat."""
    files.write_images(tmp_path / "photos")
    rows = [f"photos/{name}/{i}.png,{name}" for i in range(5) for name in ("dog", "cat")][:-1]
    write(tmp_path / "table.csv", "path,label", *rows)
    return tmp_path


def test_a_table_gives_what_the_folders_give(photos):
    """In the order of its rows; a fifth is held out."""
    table = photos / "table.csv"
    folder, listed = (files.load(source) for source in (f"folder:{photos / 'photos'}", f"csv:{table}"))
    assert listed.spec.class_names == folder.spec.class_names == ("cat", "dog")
    assert listed.spec.sizes == {"train": 7, "test": 2}
    for split in ("train", "test"):
        images, labels = listed.splits[split]
        names = sources.file_names(settings.Data(f"csv:{table}"), split)
        assert [Path(name).parent.name for name in names] == [("cat", "dog")[label] for label in labels]
        for name, image in zip(names, images, strict=True):
            number = ["cat", "dog"].index(Path(name).parent.name) * 100 + int(Path(name).stem)
            np.testing.assert_array_equal(image, files.pixels(6, 8, 3, seed=number))


def test_splits_numbers_and_other_columns(photos):
    """Cells may be quoted and have spaces around them, the file a byte order mark, and a path may be absolute."""
    source = write(photos / "table.csv", "path, split ,label,id", "photos/cat/0.png,Train,10,1",
                   f"{photos}/photos/dog/0.png,train,9,2", '"photos/dog/1.png",val, 9 ,3',
                   "photos/cat/1.png,testing,10,4", encoding="utf-8-sig")
    dataset = files.load(source)
    assert dataset.spec.sizes == {"train": 2, "validation": 1, "test": 1}
    assert dataset.spec.class_names == ("9", "10")
    assert [dataset.splits[split].labels.tolist() for split in dataset.spec.sizes] == [[1, 0], [0], [1]]
    np.testing.assert_array_equal(dataset.splits["test"].images[0], files.pixels(6, 8, 3, seed=1))
    (photos / "table.csv").write_text((photos / "table.csv").read_text("utf-8-sig").replace("testing", "train"))
    assert files.load(source).spec.sizes == {"train": 3, "test": 1}  # there is no test split: the validation split is


def test_streamed_it_is_the_same_set(photos):
    resident, streamed = (files.load(f"csv:{photos / 'table.csv'}", image_size=6, stream=stream)
                          for stream in (False, True))
    assert streamed.streamed
    assert resident.spec.sizes == streamed.spec.sizes
    for split in ("train", "test"):
        np.testing.assert_array_equal(resident.splits[split].labels, streamed.splits[split].labels)


def test_a_changed_table_or_image_is_read_again(photos, log):
    source = f"csv:{photos / 'table.csv'}"
    first = files.load(source)
    files.load(source)
    assert "from the cache" in log.text
    os.utime(photos / "photos" / "cat" / "0.png", ns=(1, 1))
    log.clear()
    files.load(source)
    assert "from the cache" not in log.text
    table = photos / "table.csv"
    table.write_text(table.read_text().replace(",cat", ",cow"))
    assert files.load(source).spec.class_names == ("cow", "dog")
    table.write_text(table.read_text().replace(",cow", ",cat") + "photos/cat/4.png,emu\n")
    changed = files.load(source)
    assert changed.spec.class_names == ("cat", "dog", "emu")
    assert changed.spec.digest != first.spec.digest


GOOD = ("path,label", "photos/cat/0.png,cat", "photos/dog/0.png,dog")


@pytest.mark.parametrize(("lines", "words"), [
    ([], r"table.csv is empty: its first line must be path,label"),
    (["path,label"], r"table.csv lists no images"),
    (["path;label", "a;b"], r"no column 'path', .* and it is path;label"),
    (["file,label", "a,b"], r"no column 'path', or two: its first line must be path,label or path,label,split"),
    (["path,class", "a,b"], r"no column 'label', .* and it is path,class"),
    (["path,label,label", "a,b,b"], r"no column 'label', or two"),
    ([*GOOD, "photos/cat/9.png,cat"], r"line 4: there is no file .*/photos/cat/9\.png"),
    ([*GOOD, "photos,cat"], r"line 4: there is no file .*/photos"),
    ([*GOOD, "photos/cat/1.png"], r"line 4: a path, a label or a split is missing"),
    ([*GOOD, "photos/cat/1.png, "], r"line 4: a path, a label or a split is missing"),
    ([*GOOD, "photos/cat/1.png,crane, bird"], r"line 4: it has more cells than the first line; a cell with a comma"),
    ([*GOOD, "photos/./cat/0.png,cat"], r"line 4: photos/./cat/0\.png is listed in line 2 already"),
    ([*GOOD, "photos/../photos/cat/0.png,dog"], r"line 4: photos/../photos/cat/0\.png is listed in line 2 already"),
    (["path,label,split", "photos/cat/0.png,cat,trian"], r"line 2: the split 'trian' is none of train, training"),
    (["path,label,split", "photos/cat/0.png,cat,"], r"line 2: a path, a label or a split is missing"),
    (["path,label,split", "photos/cat/0.png,cat,test"], r"no row of the split train, only of test"),
    (["path,label", "photos/cat/0.png,cat"], r"one class only in its training split, cat"),
    (["path,label,split", "photos/cat/0.png,cat,train", "photos/dog/0.png,dog,train", "photos/dog/1.png,dgo,test"],
     r"line 4: the class 'dgo' is not among those of the training split: cat, dog"),
    ([*GOOD, "table.csv,cat"], r"table\.csv does not decode as an image"),
    ([*GOOD, f"{'x' * 300}/{'y' * 300}.png,cat"], r"cannot read .*: File name too long"),
    (["path,label", '"' + "x" * 200_000], r"is not a CSV file in UTF-8: field larger"),
])
def test_mistakes_in_a_table(photos, lines, words):
    with pytest.raises(UserError, match=words):
        files.load(write(photos / "table.csv", *lines))


def test_one_label_in_composed_and_single_letters(photos):
    rows = [f"photos/{name}/{i}.png,{label}" for name, *labels in (("cat", "caf\u00e9", "cafe\u0301"), ("dog", "tea"))
            for i, label in enumerate(labels * 4) if i < 4]
    assert files.load(write(photos / "table.csv", "path,label", *rows)).spec.class_names == ("caf\u00e9", "tea")


def test_what_is_no_table(photos):
    (photos / "table.csv").write_bytes(b"path,label\n\xff\xfe,cat\n")
    for source, words in ((f"csv:{photos / 'table.csv'}", "is not a CSV file in UTF-8"),
                          ("csv:", "lacks its file: csv:FILE"), (f"csv:{photos}", "there is no file "),
                          (f"csv:{photos}/nowhere.csv", r"there is no file .*nowhere\.csv")):
        with pytest.raises(UserError, match=words):
            files.load(source)
