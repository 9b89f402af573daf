"""A lock for a folder in a bucket, where no kernel drops it with its holder: a lease, which its holder renews.

The object lease/NUMBER.json with the highest number says who may write. Who takes the folder over creates the next
number, which the store lets only one do. Each writes only its own number, so one who was suspended and wakes up again
cannot harm the lease of its successor. No clocks of two machines are compared: a lease that does not change in
LEASE_SECONDS, by the clock of who watches it, has ended.
"""
import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from typing import Any

from modern_cnn.buckets import CALL_SECONDS, Bucket
from modern_cnn.errors import UserError

log = logging.getLogger(__name__)

RENEW_SECONDS = 10.0
LEASE_SECONDS = 45.0
FOLDER = "lease"


class LostLease(UserError):
    """Another process writes the folder now."""


class Lease:
    """The right to write a folder: `take` it, `check` it before each write, `end` it."""

    def __init__(self, bucket: Bucket):
        self._bucket, self._id = bucket, uuid.uuid4().hex
        self._number, self._renewed = 0, 0.0
        self.lost: LostLease | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def _name(self, number: int) -> str:
        return f"{FOLDER}/{number:06d}.json"

    def _content(self, **more: Any) -> bytes:
        return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "id": self._id, "renewed": time.time(),
                           **more}).encode()

    def _newest(self) -> tuple[int, dict[str, Any]]:
        """Return (number, content) of the lease that counts; (0, {}) if there was none yet."""
        numbers = [int(found[1]) for name in self._bucket.list(FOLDER, CALL_SECONDS)
                   if (found := re.fullmatch(rf"{FOLDER}/(\d+)\.json", name))]
        number = max(numbers, default=0)
        try:
            content = json.loads(self._bucket.read(self._name(number)) or b"{}") if number else {}
        except ValueError:
            content = {}
        return number, content if isinstance(content, dict) else {}

    def _holder(self, content: dict[str, Any]) -> str:
        return f"pid {content.get('pid', 'unknown')} on {content.get('host', 'an unknown host')}"

    def take(self) -> None:
        """Take the lease, once that of another has ended, and renew it in a thread. Raise UserError if another lives.

        A lease that was given back is taken at once. Else this waits up to LEASE_SECONDS for a sign of life.
        """
        number, content = self._newest()
        if number and "ended" not in content:
            self._watch(number, content)
        self._number, started = number + 1, time.time()
        name, mine = self._name(self._number), self._content()
        if not self._bucket.create(name, mine) or self._bucket.read(name) != mine:
            raise self._refused(self._newest()[1])  # it was created after we looked: its holder lives
        self._renewed = started
        self._bucket.delete(map(self._name, range(max(1, number - 9), number + 1)))
        self._thread.start()

    def _watch(self, number: int, content: dict[str, Any]) -> None:
        """Wait until the lease has ended. Raise UserError when it is renewed."""
        log.info("%s was left by %s without notice, or is in use: waiting up to %.0f s for a sign of life",
                 self._bucket.url, self._holder(content), LEASE_SECONDS)
        end = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < end:
            time.sleep(min(1.0, LEASE_SECONDS / 10))
            now = self._newest()
            if now != (number, content):
                if now[0] == number and "ended" in now[1]:
                    return
                raise self._refused(now[1])
        log.info("the lease of %s on %s has ended: going on from there", self._holder(content), self._bucket.url)

    def _refused(self, content: dict[str, Any]) -> UserError:
        return UserError(f"another process ({self._holder(content)}) is training in {self._bucket.url}; wait for it, "
                         "stop it, or choose another --workdir")

    def _keep(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            try:
                self._renew()
            except LostLease:
                return
            except UserError:  # the network; `check` tries again
                continue

    def _renew(self) -> None:
        """Write a new time into the lease. Raise LostLease if another has it."""
        started = time.time()
        number, content = self._newest()
        if (number, content.get("id")) != (self._number, self._id):
            self.lost = LostLease(f"{self._bucket.url} was taken over by another process ({self._holder(content)}), as "
                                   f"this one had given no sign of life for {LEASE_SECONDS:.0f} s: it stops and writes "
                                   "nothing more there")
            raise self.lost
        self._bucket.write(self._name(self._number), self._content())
        self._renewed = started

    def check(self) -> None:
        """Raise LostLease if another process has the lease; look it up where the last renewal is not recent."""
        if self.lost:
            raise self.lost
        if not 0 <= time.time() - self._renewed < LEASE_SECONDS / 2:
            self._renew()

    def end(self) -> None:
        """Renew no more, and give the lease back: the next process need not wait."""
        self._ended.set()
        self._thread.join()
        try:
            if not self.lost:
                self.check()
                self._bucket.write(self._name(self._number), self._content(ended=True))
        except UserError as e:
            log.warning("the lease could not be given back, and ends by itself: %s", e)
