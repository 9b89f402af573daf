"""Files of the Hugging Face Hub, by huggingface_hub, which is imported only when a name of the Hub is used."""
import contextlib
import functools
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from modern_cnn.errors import UserError

log = logging.getLogger(__name__)

IDENTITY = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
REFUSED = "the token may not do this: log in with one that may (hf auth login, or HF_TOKEN)"
TOLD = {  # of the errors of huggingface_hub, the special ones before the general
    "HFValidationError": "{identity!r} is no repository of the Hub: {why}",
    "GatedRepoError": "{identity}: its owner must grant access first: ask on its page, then log in (hf auth login)",
    "RepositoryNotFoundError": "the Hub has no repository {identity}, or a private one: check its name, and log in to "
                               "one that is private (hf auth login, or HF_TOKEN)",
    "RevisionNotFoundError": "{identity}: the Hub has no such revision of it",
    "LocalEntryNotFoundError": "{identity}: the Hub cannot be reached, and the file is not in the cache: check the "
                               "network",
    "EntryNotFoundError": "{identity} holds no network that modern_cnn.push_to_hub wrote: it has no card.json or no "
                          "model.safetensors",
    "OfflineModeIsEnabled": "{identity}: cannot get or write it ({kind}: {why})",
    "FileMetadataError": "{identity}: cannot get or write it ({kind}: {why})",
}


def split(identity: str) -> tuple[str, str | None]:
    """Return (USER/NAME, revision or None) of USER/NAME@REVISION. Raise UserError if it is no such thing."""
    found = IDENTITY.fullmatch(identity)
    if not found:
        raise UserError(f"{identity!r} is no repository of the Hub: it must be USER/NAME or USER/NAME@REVISION")
    return found["repository"], found["revision"]


@contextlib.contextmanager
def one_line(identity: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into UserErrors."""
    try:
        from huggingface_hub import errors  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(f"{identity}: the Hub needs huggingface_hub, which is not installed: pip install "
                        "\"modern_cnn[hub]\", or in a checkout pip install -r requirements-hub.txt") from None
    try:
        yield
    except Exception as e:
        why = " ".join(str(e).split())[:200]
        told = next((text for name, text in TOLD.items() if isinstance(e, getattr(errors, name))), "")
        if isinstance(e, errors.HfHubHTTPError) and not told:
            status = getattr(e.response, "status_code", None)
            told = f"{{identity}}: the Hub answers {status}: " + (REFUSED if status in (401, 403) else "{why}")
        elif isinstance(e, OSError) and not told:
            told = "{identity}: cannot get or write it ({kind}: {why})"
        elif type(e).__module__.startswith(("http", "huggingface_hub")) and not told:  # whichever does the network
            told = "{identity}: the Hub cannot be reached ({kind}: {why})"
        if not told:
            raise
        raise UserError(told.format(identity=identity, kind=type(e).__name__, why=why)) from e


@functools.cache  # a process asks once
def fetch(identity: str, file: str) -> Path:
    """Return the path of a file of USER/NAME@REVISION in the Hub's cache. Raise UserError if it cannot be fetched.

    Without a network it is the file that was fetched last.
    """
    repository, revision = split(identity)
    with one_line(identity):
        from huggingface_hub import (  # pyright: ignore[reportMissingImports]
            errors,
            get_hf_file_metadata,
            hf_hub_download,
            hf_hub_url,
        )

        try:  # hf_hub_download alone would try a network that is not there for half a minute
            get_hf_file_metadata(hf_hub_url(repository, file, revision=revision))
        except errors.HfHubHTTPError:
            raise
        except Exception as e:
            log.info("%s: the Hub cannot be reached (%s); looking into its cache", identity, " ".join(str(e).split()))
            return Path(hf_hub_download(repository, file, revision=revision, local_files_only=True))
        return Path(hf_hub_download(repository, file, revision=revision))


def fetch_beside(identity: str, path: Path, file: str) -> Path:
    """Return the path of another file of the commit from which `path` was fetched: .../snapshots/COMMIT/FILE."""
    return fetch(f"{split(identity)[0]}@{path.parent.name}", file)
