"""Sets fetched from a local HTTP server: resumed, checked, unpacked, and trained on without TensorFlow."""
import gzip
import hashlib
import http.server
import io
import re
import tarfile
import threading

import numpy as np
import pytest

from modern_cnn.data import download, sources
from modern_cnn.data.download import Published
from modern_cnn.errors import UserError
from tests.data import files


def archive(content):
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return target.getvalue()


CIFAR = {f"cifar-10-batches-bin/{name}.bin": np.hstack([files.labels(4)[:, None], files.pixels(4, 3072)]).tobytes()
         for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")}
CONTENT = {
    "fashion_mnist": {
        f"{prefix}-{what}-ubyte.gz": gzip.compress(files.idx_bytes(array))
        for prefix, n in (("train", 40), ("t10k", 20))
        for what, array in (("images-idx3", files.pixels(n, 28, 28)), ("labels-idx1", files.labels(n, 10)))},
    "cifar10": {"cifar-10-binary.tar.gz": archive(CIFAR)},
}
KINDS = {"fashion_mnist": "idx", "cifar10": "cifar"}


class Host(http.server.ThreadingHTTPServer):
    """A host of files that notes the range of every request, and can break off or send something else."""

    def __init__(self, ranges=True):
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked, self.most, self.ranges, self.replaced = [], None, ranges, {}
        self.address = f"http://127.0.0.1:{self.server_port}"


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name, file = self.path.strip("/").split("/")
        data = self.server.replaced.get(file, CONTENT[name].get(file))
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted and self.server.ranges else 0
        self.server.asked.append((file, start))
        if data is None or start >= len(data):
            self.send_error(404 if data is None else 416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:][:self.server.most])

    def log_message(self, *args):
        pass


@pytest.fixture(params=[True], ids=["ranges"])
def host(request, monkeypatch, tmp_path):
    monkeypatch.setenv("MODERN_CNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "DEBIAN", tmp_path / "nowhere")
    monkeypatch.setattr(download, "SETS", {name: Published(
        KINDS[name], "http://nowhere.invalid/",
        {file: hashlib.sha256(data).hexdigest() for file, data in content.items()},
        "dataset-fashion-mnist" if name == "fashion_mnist" else "") for name, content in CONTENT.items()})
    with Host(request.param) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("MODERN_CNN_MIRROR", server.address)
        yield server
        server.shutdown()
        thread.join()


def data_of(config, source):
    config.data.source = source
    return sources.load(config.data)


def test_a_bare_name_is_fetched_once(host, config, tmp_path):
    first = data_of(config, "fashion_mnist")
    assert first.spec.sizes == {"train": 40, "test": 20}
    assert first.spec.image_shape == (28, 28, 1)
    np.testing.assert_array_equal(first.splits["train"].images[..., 0], np.frombuffer(gzip.decompress(
        CONTENT["fashion_mnist"]["train-images-idx3-ubyte.gz"]), np.uint8, offset=16).reshape(40, 28, 28))
    assert len(host.asked) == 4
    assert data_of(config, "fashion_mnist").spec == first.spec
    assert len(host.asked) == 4


def test_an_archive_is_unpacked(host, config):
    images = data_of(config, "cifar10").splits["train"].images
    assert images.shape == (20, 32, 32, 3)
    row = np.frombuffer(CIFAR["cifar-10-batches-bin/data_batch_1.bin"], np.uint8)[1:3073]
    np.testing.assert_array_equal(images[0], row.reshape(3, 32, 32).transpose(1, 2, 0))
    assert not [*download.directory("cifar10").glob("cifar*.gz*")]  # what was unpacked needs no archive


@pytest.mark.parametrize("host", [True, False], ids=["ranges", "whole"], indirect=True)
def test_a_download_that_broke_off_goes_on(host, config):
    host.most = 3000  # more than the labels have, less than the images
    with pytest.raises(UserError, match="run the same command again"):
        data_of(config, "fashion_mnist")
    host.most = None
    data_of(config, "fashion_mnist")
    assert host.asked[1] == ("train-images-idx3-ubyte.gz", 3000 if host.ranges else 0)


def test_a_part_that_is_complete_is_not_fetched_again(host, config):
    place = download.directory("fashion_mnist")
    place.mkdir(parents=True)
    (place / "train-images-idx3-ubyte.gz.part").write_bytes(CONTENT["fashion_mnist"]["train-images-idx3-ubyte.gz"])
    assert data_of(config, "fashion_mnist").spec.sizes["train"] == 40


def test_another_file_is_refused_and_does_not_stay(host, config):
    host.replaced["t10k-labels-idx1-ubyte.gz"] = b"<html>Please log in</html>"
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte\.gz is not the file .* SHA-256"):
        data_of(config, "fashion_mnist")
    host.replaced.clear()
    assert data_of(config, "fashion_mnist").spec.sizes["test"] == 20


def test_the_content_of_a_gzip_file_may_be_packed_otherwise(host, config, monkeypatch):
    published = download.SETS["fashion_mnist"]
    monkeypatch.setitem(download.SETS, "fashion_mnist", published._replace(digests={
        file: hashlib.sha256(gzip.decompress(data)).hexdigest() for file, data in CONTENT["fashion_mnist"].items()}))
    host.replaced["t10k-labels-idx1-ubyte.gz"] = gzip.compress(gzip.decompress(
        CONTENT["fashion_mnist"]["t10k-labels-idx1-ubyte.gz"]), 1, mtime=1)
    assert data_of(config, "fashion_mnist").spec.sizes["test"] == 20


def test_without_the_host_the_message_says_what_to_put_where(host, config, monkeypatch):
    monkeypatch.setenv("MODERN_CNN_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(UserError) as error:
        data_of(config, "fashion_mnist")
    for part in ("http://127.0.0.1:9/fashion_mnist/", *CONTENT["fashion_mnist"], "dataset-fashion-mnist",
                 str(download.directory("fashion_mnist"))):
        assert part in str(error.value)
    for file, data in CONTENT["fashion_mnist"].items():
        (download.directory("fashion_mnist") / file).write_bytes(data)
    assert data_of(config, "fashion_mnist").spec.sizes["train"] == 40


def test_an_archive_put_there_by_hand_is_unpacked(host, config, monkeypatch):
    monkeypatch.setenv("MODERN_CNN_MIRROR", "http://127.0.0.1:9")
    place = download.directory("cifar10")
    place.mkdir(parents=True)
    (place / "cifar-10-binary.tar.gz").write_bytes(CONTENT["cifar10"]["cifar-10-binary.tar.gz"])
    assert data_of(config, "cifar10").spec.sizes == {"train": 20, "test": 4}
