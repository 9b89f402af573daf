"""Runs in a bucket: the run works in a folder of its own on this machine, and a thread keeps the bucket equal to it.

Objects appear whole or not at all, and here in an order that a kill cannot break. First come records and settings, so
that metrics.jsonl is never behind a checkpoint; then the files of each new checkpoint, and last its COMPLETE, without
which it is none; then the list of checkpoints; then those that are gone here are deleted, COMPLETE first.
"""
import contextlib
import json
import logging
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import jax

from modern_cnn import buckets
from modern_cnn.buckets import Bucket
from modern_cnn.data import sources
from modern_cnn.errors import UserError, sealed
from modern_cnn.runs.lease import FOLDER, Lease, LostLease
from modern_cnn.settings import Data

log = logging.getLogger(__name__)

SYNC_SECONDS = 5.0  # between two looks at what is new
COMPLETE = "_CHECKPOINT_METADATA"  # a file of every checkpoint of Orbax
LIST = "checkpoints.json"  # it names checkpoints: the one here those that are here, the one there those that are there
UNREAD = (f"{FOLDER}/", "tensorboard/", "profile/", "checkpoints_damaged/")  # neither resuming nor scoring needs them


def _checkpoint(name: str) -> str:
    """Return the checkpoint that an object or file is part of, 'checkpoints/8', or ''."""
    found = re.match(r"checkpoints/\d+(?=/)", name)
    return found[0] if found else ""


def _needed(names: Iterable[str]) -> list[str]:
    """Return the objects of a run that are to be read: of checkpoints only those that are complete."""
    names = list(names)
    complete = {_checkpoint(name) for name in names if PurePosixPath(name).name == COMPLETE}
    return [name for name in names if not name.startswith(UNREAD) and (not (of := _checkpoint(name)) or of in complete)]


def local(place: str | Path) -> Path:
    """Return the path of a run: of one in a bucket that of a copy in the cache, made of its state now."""
    url = buckets.url_of(place)
    return buckets.copied(url, _needed) if url else Path(place)


class Mirror:
    """A folder on this machine, and what of it the bucket has."""

    def __init__(self, bucket: Bucket, directory: Path, lease: Lease):
        self.directory, self._bucket, self._lease = directory, bucket, lease
        self._sent: dict[str, Any] = {}  # of files and whole checkpoints, as `_found` describes them
        self._failing = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="mirror", daemon=True)

    def fetch(self) -> None:
        """Download what a run needs to go on, and begin to send what it writes."""
        names = self._bucket.list()
        try:
            self._bucket.download(_needed(names), self.directory)
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise
        files, checkpoints = self._found()
        self._sent = files | checkpoints
        self._sent |= dict.fromkeys({_checkpoint(name) for name in names} - {"", *checkpoints})  # what a kill left
        self._thread.start()

    def _found(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what is there, {name: what changes when it does}: of files, and of complete checkpoints."""
        files: dict[str, Any] = {}
        checkpoints: dict[str, Any] = {}
        for folder, _, names in os.walk(self.directory):
            for path in (Path(folder, name) for name in names):
                name = path.relative_to(self.directory).as_posix()
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    stat = path.stat()
                    stamp = stat.st_size, stat.st_mtime_ns
                    if of := _checkpoint(name):
                        checkpoints.setdefault(of, {})[name] = stamp
                    elif not name.startswith("checkpoints/") and path.suffix != ".tmp" and path.name != ".lock":
                        files[name] = stamp
        return files, checkpoints

    def send(self) -> None:
        """Make the bucket equal to the folder. Raise LostLease if this process may write there no more."""
        _, checkpoints = self._found()  # before the records, which are to be as new
        for name, changed in self._found()[0].items():
            if name != LIST and self._sent.get(name) != changed:
                self._send_file(name, changed, (self.directory / name).read_bytes())
        for of, names in checkpoints.items():
            if not names.items() <= (self._sent.get(of) or {}).items():  # fewer files: one that is being deleted
                with contextlib.suppress(FileNotFoundError):  # a newer one has replaced it meanwhile
                    self._send_checkpoint(of, names)
        steps = sorted(int(PurePosixPath(of).name) for of in checkpoints if self._sent.get(of))
        if steps and self._sent.get(LIST) != steps:
            self._send_file(LIST, steps, (json.dumps(sealed({"steps": steps}), indent=1) + "\n").encode())
        for of in [name for name in self._sent if _checkpoint(f"{name}/") and name not in checkpoints]:
            if checkpoints or self._sent[of] is None:  # a run never removes its last
                self._remove(of)

    def _send_file(self, name: str, stamp: Any, content: bytes) -> None:
        self._lease.check()
        self._bucket.write(name, content)
        self._sent[name] = stamp

    def _send_checkpoint(self, of: str, names: Iterable[str]) -> None:
        """Write the objects of a checkpoint, none over another: what a process sends that slept too long harms none."""
        try:
            self._create_checkpoint(of, names)
        except FileExistsError:  # such a process was faster, or the answer to a first try was lost on the way
            self._create_checkpoint(of, names)

    def _create_checkpoint(self, of: str, names: Iterable[str]) -> None:
        if of in self._sent:  # another one of the same step
            self._remove(of)
        self._sent[of] = None
        last = f"{of}/{COMPLETE}"
        for some in ([name for name in names if name != last], [last]):
            self._lease.check()
            self._bucket.upload({name: self.directory / name for name in some})
        self._sent[of] = names

    def _remove(self, of: str) -> None:
        for some in ([f"{of}/{COMPLETE}"], self._bucket.list(of)):
            self._lease.check()
            self._bucket.delete(some)
        del self._sent[of]

    def _keep(self) -> None:
        while not self._ended.wait(SYNC_SECONDS):
            try:
                self.send()
                if self._failing:
                    log.info("%s can be written again", self._bucket.url)
                self._failing = False
            except LostLease:
                return
            except (UserError, OSError) as e:
                if not self._failing:
                    log.warning("%s; trying again", e)
                self._failing = True

    def end(self) -> None:
        """Send what is left, and remove the folder. Raise UserError, and keep it, where that fails."""
        self._ended.set()
        self._thread.join()
        try:
            if not self._lease.lost:
                self.send()
        except LostLease:
            pass
        except (UserError, OSError) as e:
            raise UserError(f"{e}; what could not be sent is in {self.directory}: copy it there, or run the same "
                            "command again, which goes on from what is there") from e
        shutil.rmtree(self.directory, ignore_errors=True)
        self.check()

    def check(self) -> None:
        """Raise LostLease if another process has the run now, as far as this one knows."""
        if self._lease.lost:
            raise self._lease.lost


class Place:
    """Where a run works: its directory on this machine."""

    def __init__(self, directory: Path, mirror: Mirror | None = None):
        self.directory, self._mirror = directory, mirror

    def watched(self, watch: Callable[[int, Any], None] | None) -> Callable[[int, Any], None] | None:
        """Return what is called before each step, `watch`, which then raises LostLease once another has the run."""
        mirror = self._mirror
        if mirror is None:
            return watch

        def watched(step: int, state: Any) -> None:
            mirror.check()
            if watch:
                watch(step, state)

        return watched


@contextlib.contextmanager
def opened(place: str | Path, data: Data) -> Iterator[Place]:
    """Give the place where a run works: for a bucket a new folder with what is there, and the lease until the end.

    Raise UserError if the bucket cannot be reached or holds the `data` around the run, another process has the run, or
    the last files cannot be sent.
    """
    url = buckets.url_of(place)
    if not url:
        yield Place(Path(place))
        return
    sources.keep_out(Path(place), data, "workdir")  # a Record knows the folder on this machine alone
    if jax.process_count() > 1:
        raise UserError(f"several processes cannot train in {url}: they need a workdir that all can open as a folder, "
                        "a mounted bucket for instance")
    bucket = Bucket(url)
    lease = Lease(bucket)
    lease.take()
    try:
        mirror = Mirror(bucket, Path(tempfile.mkdtemp(prefix="modern_cnn-")), lease)
        mirror.fetch()
        try:
            with _called(mirror.directory, url):
                yield Place(mirror.directory, mirror)
        finally:
            mirror.end()
    finally:
        lease.end()


@contextlib.contextmanager
def _called(directory: Path, url: str) -> Iterator[None]:
    """Let what is logged and raised in the block name the address instead of the folder on this machine."""
    def rename(record: logging.LogRecord) -> bool:
        record.msg, record.args = record.getMessage().replace(str(directory), url), ()
        return True

    handlers = list(logging.getLogger("modern_cnn").handlers)
    for handler in handlers:
        handler.addFilter(rename)
    try:
        yield
    except UserError as e:
        e.args = (str(e).replace(str(directory), url),)
        raise
    finally:
        for handler in handlers:
            handler.removeFilter(rename)
