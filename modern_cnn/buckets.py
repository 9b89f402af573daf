"""Folders of buckets, gs://BUCKET/PATH and s3://BUCKET/PATH: the only file that knows gcsfs and s3fs.

Both packages are optional and imported when the first address is opened. Every failure is a UserError of one line.
"""
import hashlib
import importlib
import json
import logging
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from modern_cnn import runtime
from modern_cnn.errors import UserError

log = logging.getLogger(__name__)

REACH_SECONDS = 10.0  # for the first answer: left alone, gcsfs and s3fs try for minutes
CALL_SECONDS = 60.0  # for a small object
PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}
LOG_IN = {"gs": "`gcloud auth application-default login` or $GOOGLE_APPLICATION_CREDENTIALS",
          "s3": "`aws configure` or $AWS_ACCESS_KEY_ID and $AWS_SECRET_ACCESS_KEY"}


def url_of(place: str | Path) -> str:
    """Return the address of a folder in a bucket without a slash at its end; '' for any other place.

    pathlib makes one slash of two; this mends it. Raise UserError for an address without a bucket.
    """
    address = re.fullmatch(r"(gs|s3):/+(.*?)/*", os.fspath(place), re.DOTALL)
    if not address:
        return ""
    parts = address[2].split("/")
    if not all(parts) or {".", ".."} & set(parts):
        raise UserError(f"{place} is not the address of a folder in a bucket: it must be {address[1]}://BUCKET/PATH")
    return f"{address[1]}://{address[2]}"


def _within(seconds: float, action: Callable[[], Any]) -> Any:
    """Return what `action` returns; raise TimeoutError after so long, when it goes on in a thread of its own."""
    outcome: list[Any] = []

    def act() -> None:
        try:
            outcome.extend((action(), None))
        except BaseException as e:
            outcome.extend((None, e))

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer in {seconds:.0f} s")
    result, error = outcome
    if error:
        raise error
    return result


def _file_system(kind: str) -> Callable[[], Any]:
    """Return what connects. Raise UserError without the package."""
    try:
        package = importlib.import_module("gcsfs.core" if kind == "gs" else PACKAGES[kind])
    except ImportError as e:
        raise UserError(f"{kind}:// needs the package {PACKAGES[kind]}, which cannot be imported ({e}): pip install "
                        f"{PACKAGES[kind]}") from None
    own = {"use_listings_cache": False, "skip_instance_cache": True}  # others write there too
    if kind == "gs":  # not the class of fsspec's registry, which asks another service for the kind of the bucket
        return partial(package.GCSFileSystem, **own, requests_timeout=CALL_SECONDS)
    return partial(package.S3FileSystem, **own, config_kwargs={"connect_timeout": 5, "read_timeout": CALL_SECONDS})


class Bucket:
    """A folder of a bucket, as a flat table of objects by their names below it. Opening it asks for a first answer."""

    def __init__(self, url: str):
        self.url = url
        self._kind, _, self._root = url.partition("://")
        bucket, _, prefix = self._root.partition("/")
        connect = _file_system(self._kind)

        def reach() -> Any:
            system = connect()
            if self._kind == "gs":
                system.call("GET", "b/{}/o", bucket, prefix=prefix, maxResults=1, json_out=True)
            else:
                system.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
            return system

        try:
            self._system = self._call("reach", _within, REACH_SECONDS, reach)
        except FileNotFoundError as e:
            raise UserError(f"cannot reach {url}: there is no bucket {bucket}, or this account does not see it") from e

    def _call(self, what: str, action: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return what a call of the file system returns. Raise FileNotFoundError, FileExistsError or UserError."""
        try:
            return action(*args, **kwargs)
        except (FileNotFoundError, FileExistsError, UserError):
            raise
        except Exception as e:  # of five packages, without a common ancestor
            reason = " ".join(str(e).split())[:200] or type(e).__name__
            raise UserError(f"cannot {what} {self.url}: {reason}. Is the network up, and does this account have the "
                            f"right to? Credentials come from {LOG_IN[self._kind]}") from e

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def list(self, below: str = "", seconds: float | None = None) -> dict[str, tuple[int, str]]:
        """Return {name: (size, generation or ETag)} of all objects of the folder, or of those `below` one in it."""
        try:
            found = self._call("list", self._system.find, self._path(below) if below else self._root, detail=True,
                               timeout=seconds)
        except FileNotFoundError:
            return {}
        listed = {path[len(self._root) + 1:]: (int(info["size"]), str(info.get("generation") or info.get("ETag")))
                  for path, info in found.items() if info["type"] == "file" and path.startswith(f"{self._root}/")}
        return {name: stamp for name, stamp in listed.items() if name and not name.endswith("/")}

    def read(self, name: str) -> bytes | None:
        """Return the content of an object, None if there is none."""
        try:
            return self._call("read", self._system.cat_file, self._path(name), timeout=CALL_SECONDS)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write an object, all of it or nothing."""
        self._call("write to", self._system.pipe_file, self._path(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """Write an object unless it is there; of several at once one does. Return whether this one did.

        The condition is ifGenerationMatch=0 in GCS and If-None-Match in S3.
        """
        try:
            self._call("write to", self._system.pipe_file, self._path(name), content, mode="create",
                       timeout=CALL_SECONDS)
        except FileExistsError:
            return self.read(name) == content  # the answer to a first try may have been lost on the way
        return True

    def upload(self, files: Mapping[str, Path]) -> None:
        """Write the objects of files, {name: file}, in any order. Raise FileExistsError where one is there already."""
        if files:
            self._call("write to", self._system.put, list(map(str, files.values())), list(map(self._path, files)),
                       mode="create")

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects one by one; one that is gone is no error."""
        for name in names:
            try:
                self._call("delete from", self._system.rm_file, self._path(name))
            except FileNotFoundError:
                continue

    def download(self, names: Iterable[str], directory: Path) -> None:
        """Write objects as files below a directory. Raise UserError for a name that would lead out of it."""
        files = {name: directory / name for name in names}
        for name in files:
            if PurePosixPath(name).is_absolute() or {"", ".", ".."} & set(name.split("/")):
                raise UserError(f"{self.url} holds an object named {name!r}, which cannot be the name of a file")
        for folder in {file.parent for file in files.values()}:
            folder.mkdir(parents=True, exist_ok=True)
        if files:
            self._call("read", self._system.get, list(map(self._path, files)), list(map(str, files.values())))


def copied(url: str, wanted: Callable[[Iterable[str]], Iterable[str]] = sorted) -> Path:
    """Return a folder of the cache with the `wanted` objects of a folder in a bucket, by default all.

    There is one for each state of the objects: their names, sizes and generations (of S3: ETags). One that is there is
    not copied again. Raise UserError if there are no objects, or they cannot be read or written.
    """
    bucket = Bucket(url)
    listed = bucket.list()
    names = sorted(wanted(listed))
    if not names:
        raise UserError(f"there is nothing at {url}")
    state = hashlib.sha256(json.dumps([url, *((name, *listed[name]) for name in names)]).encode()).hexdigest()[:16]
    directory = runtime.cache_dir() / "buckets" / state / url.rpartition("/")[2]
    if directory.is_dir():
        return directory
    log.info("copying %s (%d files, %.1f MB) to %s", url, len(names), sum(listed[n][0] for n in names) / 1e6, directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=directory.parent))
        try:
            bucket.download(names, temporary)
            temporary.rename(directory)
        except OSError:
            if not directory.is_dir():  # else another process was faster
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as e:
        raise UserError(f"cannot copy {url} to {directory}: {e.strerror or e}") from e
    return directory


def read(place: str | Path, name: str) -> bytes:
    """Return the content of a file in a folder, of this machine or of a bucket. Raise OSError or UserError."""
    if not (url := url_of(place)):
        return Path(place, name).read_bytes()
    content = Bucket(url).read(name)
    if content is None:
        raise FileNotFoundError(f"there is no {url}/{name}")
    return content
