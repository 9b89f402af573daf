"""Errors in what the user gives: one line that says what is wrong, where, and what to do."""
import difflib
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
JSON_BYTES = 2**24  # no file that a run or the cache writes as one JSON value comes near it


class UserError(ValueError):
    """Wrong input, explained in one line. Scripts print the line without a traceback and exit with 1.

    The text is made one line. Of more than 600 letters, which only long names or values of a user give, it keeps the
    beginning and the end.
    """

    def __init__(self, text: object):
        line = " ".join(str(text).splitlines())
        super().__init__(line if len(line) <= 600 else f"{line[:400]} ... {line[-190:]}")


def lack_of_memory(error: object) -> str:
    """Return what XLA or NumPy says of the memory that it did not get, on one line; '' for any other error."""
    text = " ".join(str(error).split())[:300]
    lacks = isinstance(error, MemoryError) or re.search("RESOURCE_EXHAUSTED.*(memory|allocat)", text, re.IGNORECASE)
    return (text or type(error).__name__) if lacks else ""


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with one more key, the last: 'crc', by which `parse_json` notices that the rest was changed."""
    return record | {"crc": zlib.crc32(json.dumps(record).encode())}


def parse_json(data: str | bytes) -> Any:
    """Return the value of a JSON text, without the key of `sealed`. Raise ValueError if it is none, or was changed."""
    if len(data) > JSON_BYTES:
        raise ValueError(f"it has {len(data):,} bytes of JSON, more than {JSON_BYTES:,}")
    try:
        value = json.loads(data)
        if isinstance(value, dict) and "crc" in value:  # earlier versions wrote none
            crc = value.pop("crc")
            if sealed(value)["crc"] != crc:
                raise ValueError("it was damaged, or edited (whoever edits it deletes its \"crc\")")
        return value
    except RecursionError:
        raise ValueError("its brackets are nested too deep") from None


def some(names: Iterable[str], letters: int = 100) -> str:
    """Return names with commas between them for an error message, cut after so many letters."""
    names = list(names)
    text = ", ".join(names)
    return text if len(text) <= letters else f"{text[:letters]}... ({len(names):,} in all)"


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return the end of an error about an unknown name, "; did you mean 'x'? known: x, y"; of many, the closest."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    if close and len(choices) > 20:
        return hint
    return f"{hint} known: {', '.join(choices)}" if choices else ""


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """Return table[name], or raise UserError: it says that there is no such `what`, and names the closest one."""
    if name not in table:
        raise UserError(f"there is no {what} {name!r}{did_you_mean(name, table)}")
    return table[name]
