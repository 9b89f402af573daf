"""Every data test has a cache of its own and sees no data sets but those it writes."""
import pytest

from modern_cnn.data import sources


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache folder, not there yet."""
    monkeypatch.setenv("MODERN_CNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MODERN_CNN_DATA", raising=False)
    monkeypatch.setattr(sources, "DEBIAN", tmp_path / "debian")
    return tmp_path / "cache"


@pytest.fixture
def log(caplog):
    """caplog with the package's information lines."""
    caplog.set_level("INFO", "modern_cnn")
    return caplog
