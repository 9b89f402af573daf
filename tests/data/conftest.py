"""Every data test has a cache of its own and sees only the data sets that it writes."""
import numpy as np
import pytest

from modern_cnn.data import sources, tfds
from modern_cnn.data.decoding import keep_size, resize_array
from modern_cnn.data.spec import Arrays
from tests.data import files


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Return the cache folder, which does not exist yet."""
    monkeypatch.setenv("MODERN_CNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MODERN_CNN_DATA", raising=False)
    monkeypatch.setattr(sources, "DEBIAN", tmp_path / "debian")
    return tmp_path / "cache"


@pytest.fixture
def log(caplog):
    """Return caplog, which also catches the package's information lines."""
    caplog.set_level("INFO", "modern_cnn")
    return caplog


@pytest.fixture
def asked(monkeypatch):
    """Return the names that TFDS is asked for. Its images are 6x5; it declares no size if 'any' is in the name."""
    names = []

    def read(name, image_size, manual_dir, scaled=0):
        names.append(name)
        images = files.pixels(20, 6, 5, 1)
        same_size = "any" not in name and keep_size(image_size, images.shape, scaled=scaled)
        images = images if same_size else resize_array(images, image_size, name, scaled)
        split = Arrays(images, files.labels(20).astype(np.int32))
        return {"train": split, "test": split}, [], same_size

    monkeypatch.setattr(tfds, "read", read)
    return names
