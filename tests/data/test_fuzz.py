"""Readers of files against thousands of damaged files: a right array or a UserError, soon, and in little memory."""
import gzip
import io
import pickle
import random
import resource
import time

import numpy as np
import pytest
from PIL import Image

from modern_cnn.data import cache, decoding, formats
from modern_cnn.data.spec import Arrays
from modern_cnn.errors import UserError
from modern_cnn.weights import files as weights
from tests.data import files

SECONDS, MIB = 5, 400  # that one damaged file may take: as much as the machine is busy, and more memory than before
NUMBERS = (b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"[" * 50, b"(" * 50)


def mutated(draw: random.Random, data: bytes) -> bytes:
    """Return data after one to four changes: bits, bytes, numbers, parts cut, doubled, exchanged or put elsewhere."""
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        # Headers are short and at the start: half of the changes go there.
        place = draw.randrange(min(len(data), 64) if draw.random() < 0.5 else len(data)) if data else 0
        size = draw.choice((1, 2, 4, 16, 200))
        kind = draw.randrange(7)
        if kind == 0 and data:
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 1 and data:
            data[place] = draw.randrange(256)
        elif kind == 2:
            number = draw.choice(NUMBERS)
            data[place:place + len(number)] = number
        elif kind == 3:
            del data[place:place + size]
        elif kind == 4:
            data[place:place] = data[place:place + size]
        elif kind == 5:
            data[place:place] = bytes(draw.randrange(256) for _ in range(size))
        else:
            del data[place:]
    return bytes(data)


def images():
    """The encoded images: of every format, in several modes."""
    colour = Image.fromarray(files.pixels(9, 11, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind, image, options in (
            ("PNG", colour, {"exif": exif}), ("PNG", colour.quantize(16), {"transparency": 3}),
            ("PNG", Image.fromarray(files.pixels(9, 11).astype(np.uint16) * 257), {}), ("JPEG", colour, {"exif": exif}),
            ("JPEG", colour.convert("L"), {"progressive": True}), ("GIF", colour, {}), ("WEBP", colour, {"exif": exif}),
            ("WEBP", colour.convert("RGBA"), {"lossless": True}), ("BMP", colour, {}), ("TIFF", colour, {}),
            ("TIFF", colour.convert("LA"), {"compression": "tiff_lzw"}), ("PPM", colour, {}), ("AVIF", colour, {}),
            ("JPEG2000", colour, {})):
        data = io.BytesIO()
        image.save(data, kind, **options)
        yield data.getvalue()


def images_reader(place):
    def read(data):
        image = decoding.decode(io.BytesIO(data), 8)
        assert image.dtype == np.uint8
        assert image.shape in {(8, 8), (8, 8, 3)}

    return list(images()), read


def checked(splits):
    """Assert what every reader of a set promises."""
    for images_, labels in splits.values():
        assert (images_.dtype, images_.ndim, labels.dtype, labels.shape) == (np.uint8, 4, np.int32, (len(images_),))


def idx_reader(place):
    arrays = files.write_idx(place, zipped=False)

    def read(data):
        (place / files.IDX["train_images"]).write_bytes(data)
        splits, _ = formats.read_idx(place)
        checked(splits)
        if data[:2] == b"\x1f\x8b":  # it has a checksum
            np.testing.assert_array_equal(splits["train"].images[..., 0], arrays["train_images"])
        assert splits["train"].images.size == 600

    whole = files.idx_bytes(arrays["train_images"])
    return [whole, gzip.compress(whole)], read


def cifar_reader(place):
    arrays = files.write_cifar10(place)
    images_, labels = arrays["data_batch_1"]
    batch = {b"data": files.cifar_rows(images_), b"labels": labels.tolist(), b"batch_label": b"1", "names": ["a"] * 4}

    def read(data):
        (place / "data_batch_1").write_bytes(data)
        checked(formats.read_cifar(place)[0])

    return [pickle.dumps(batch, protocol) for protocol in range(6)], read


def cifar_names_reader(place):
    def read(data):
        (place / "batches.meta").write_bytes(data)
        names = formats._read_cifar_names(place / "batches.meta", 10)
        assert names == [] or (len(names) == 10 and {*map(type, names)} == {str})

    return [pickle.dumps({"label_names": [f"c{i}" for i in range(10)]}, protocol) for protocol in range(6)], read


def cifar_binary_reader(place):
    files.write_cifar10(place, "binary")

    def read(data):
        (place / "data_batch_1.bin").write_bytes(data)
        checked(formats.read_cifar(place)[0])

    return [(place / "data_batch_1.bin").read_bytes()], read


def cache_reader(name):
    def reader(place):
        split = Arrays(files.pixels(5, 4, 4, 1), files.labels(5).astype(np.int32))
        decoded = cache.Decoded("idx", "/x", "f", ["a", "b"], cache.digest({"train": split}), {"train": split})
        cache.save(place / "entry", decoded)

        def read(data):
            (place / "entry" / name).write_bytes(data)
            found = cache.load(place / "entry")
            if found is None:
                raise UserError("it is decoded again")
            for one, other in zip(found.splits["train"], split, strict=True):
                np.testing.assert_array_equal(one, other)
            assert vars(found) | {"splits": 0} == vars(decoded) | {"splits": 0}

        return [(place / "entry" / name).read_bytes()], read

    return reader


def weights_reader(ending):
    def reader(place):
        state = {"conv1.weight": np.ones((2, 1, 3, 3), np.float32), "conv1.bias": np.zeros(2, np.float32)}
        path = place / f"w{ending}"
        if ending == ".safetensors":
            weights.write_state_dict(path, state)
        else:
            import torch

            torch.save({name: torch.tensor(array) for name, array in state.items()}, path)

        def read(data):
            path.write_bytes(data)
            for array in weights.read_state_dict(path).values():
                assert isinstance(array, np.ndarray)

        return [path.read_bytes()], read

    return reader


READERS = {"images": images_reader, "idx": idx_reader, "cifar python": cifar_reader, "cifar names": cifar_names_reader,
           "cifar binary": cifar_binary_reader, "cached images": cache_reader("train_images.npy"),
           "cached labels": cache_reader("train_labels.npy"), "cached meta": cache_reader("meta.json"),
           "safetensors": weights_reader(".safetensors"), "pth": weights_reader(".pth")}


@pytest.mark.parametrize("count", [600, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore")  # Pillow and NumPy warn of some damages
def test_damaged_files(name, count, tmp_path):
    draw = random.Random(f"{name} {count}")  # the same files every time
    originals, read = READERS[name](tmp_path)
    for data in originals:
        read(data)
    before, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for number in range(count):
        data, start = mutated(draw, originals[number % len(originals)]), time.process_time()
        try:
            read(data)
        except UserError as e:
            refused.append(str(e))
        except BaseException:
            print(f"damaged file {number}: {data[:200]!r}")
            raise
        assert time.process_time() - start < SECONDS
    assert len(refused) > count / 50
    assert max(map(len, refused)) <= 600
    assert not [text for text in refused if "\n" in text]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MIB * 1024


def test_brackets_without_end_in_a_safetensors_header(tmp_path):
    path, header = tmp_path / "w.safetensors", b'{"a":' + b"[" * 200_000
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UserError, match=r"w\.safetensors is damaged"):
        weights.read_state_dict(path)
