"""Errors in what the user gives: one line that says what is wrong, where, and what to do."""
import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """Wrong input, explained in one line. Scripts print the line without a traceback and exit with 1."""


def some(names: Iterable[str], letters: int = 100) -> str:
    """Return names with commas between them for an error message, cut after so many letters."""
    names = list(names)
    text = ", ".join(names)
    return text if len(text) <= letters else f"{text[:letters]}... ({len(names):,} in all)"


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return the end of an error message about an unknown name: `'; did you mean 'x'? known: x, y'`.

    It is '' without choices. Of more than 20 choices it names only the closest, if one is close.
    """
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
