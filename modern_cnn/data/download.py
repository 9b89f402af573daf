"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100: fetched from their hosts, resumed where it stopped, and checked."""
import contextlib
import gzip
import hashlib
import http.client
import logging
import os
import tarfile
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from tqdm import tqdm

from modern_cnn import runtime
from modern_cnn.errors import UserError

log = logging.getLogger(__name__)

SECONDS = 20  # a host that says nothing for so long does not answer


class Published(NamedTuple):
    """The files of a data set, as its authors publish them."""
    kind: str  # that of a source: 'idx' or 'cifar'
    address: str  # of the folder on the host
    digests: dict[str, str]  # SHA-256 of each file, or of what a .gz file contains: archives may be packed again
    package: str = ""  # of Debian, which holds the same images


_IDX = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz")
SETS = {
    "mnist": Published("idx", "https://storage.googleapis.com/cvdf-datasets/mnist/", dict(zip(_IDX, (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"), strict=True))),
    "fashion_mnist": Published("idx", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", dict(zip(_IDX, (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"), strict=True)), "dataset-fashion-mnist"),
    "cifar10": Published("cifar", "https://www.cs.toronto.edu/~kriz/", {
        "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"}),
    "cifar100": Published("cifar", "https://www.cs.toronto.edu/~kriz/", {
        "cifar-100-binary.tar.gz": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"}),
}


def directory(name: str) -> Path:
    """Return where the files of a set are put."""
    return runtime.cache_dir() / "downloads" / name


def fetch(name: str) -> None:
    """Fetch what the directory of a set lacks; archives are unpacked there. $MODERN_CNN_MIRROR/NAME/FILE comes first.

    What was fetched before a break is kept, and the next call goes on from there. Raise UserError if the host cannot
    be reached, or a file is not the one that its authors publish.
    """
    published, place = SETS[name], directory(name)
    mirror = os.environ.get("MODERN_CNN_MIRROR")
    address = f"{mirror.rstrip('/')}/{name}/" if mirror else published.address
    place.mkdir(parents=True, exist_ok=True)
    with open(place / ".lock", "a") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: two processes may fetch the same
            runtime.hold(lock, wait=True)
        for file, digest in published.digests.items():
            path, unpacked = place / file, place / f".{file}.unpacked"
            if not path.exists() and not unpacked.exists():
                part = place / f"{file}.part"
                try:
                    _download(address + file, part)
                except (OSError, ValueError, http.client.HTTPException) as e:
                    package = f", or install Debian's package {published.package}" if published.package else ""
                    raise UserError(
                        f"{address}{file} cannot be fetched ({getattr(e, 'reason', e)}): run the same command again, "
                        f"or put {', '.join(published.digests)} into {place}{package}") from e
                if digest not in _digests(part):
                    part.unlink()
                    raise UserError(f"{address}{file} is not the file that the authors of {name} publish: its SHA-256 "
                                    f"is not {digest}. Is a proxy in between? Put the right file into {place}")
                part.replace(path)
            if ".tar" in file and not unpacked.exists():
                try:
                    with tarfile.open(path) as archive:
                        archive.extractall(place, filter="data")
                except (tarfile.TarError, EOFError, zlib.error) as e:
                    raise UserError(f"{path} is a damaged archive ({e}): delete it") from e
                unpacked.touch()
                path.unlink()


def _download(url: str, part: Path) -> None:
    """Append to a file what it lacks of a URL's content. Raise OSError, ValueError or HTTPException if that fails."""
    begun = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "modern_cnn"} | ({"Range": f"bytes={begun}-"} if begun else {})
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=SECONDS)
    except urllib.error.HTTPError as e:
        if e.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return  # all of it was fetched before
    with answer:
        begun = begun if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0  # else the host sends all of it
        total = begun + int(answer.headers.get("Content-Length") or 0)
        log.info("fetching %s (%.1f MB%s)", url, total / 1e6, f", {begun / 1e6:.1f} of it are here" if begun else "")
        with open(part, "ab" if begun else "wb") as file, tqdm(
                total=total, initial=begun, desc=urlsplit(url).path.rpartition("/")[2], unit="B", unit_scale=True,
                leave=False, disable=None) as bar:
            while data := answer.read(2**16):
                file.write(data)
                bar.update(len(data))
    if part.stat().st_size < total:
        raise http.client.IncompleteRead(b"", total - part.stat().st_size)


def _digests(path: Path) -> set[str]:
    """Return the SHA-256 of a file, and that of its content if it is a gzip file."""
    with open(path, "rb") as file:
        found = {hashlib.file_digest(file, "sha256").hexdigest()}
    try:
        with gzip.open(path) as file:
            found.add(hashlib.file_digest(file, "sha256").hexdigest())  # pyright: ignore
    except (OSError, EOFError, zlib.error):
        pass
    return found
