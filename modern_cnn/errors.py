"""What a person reads when the input is wrong: one line that says what, where, and what to do."""
import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """Bad input, told in one line. Scripts print it without a traceback and exit with 1."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """`'; did you mean 'x'? known: x, y'` for an error about `name`; '' if there is nothing to choose from.

    Of more than 20 choices only the closest is told, where there is one.
    """
    choices = sorted(choices)
    if not choices:
        return ""
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    if close and len(choices) > 20:
        return f"; did you mean {close[0]!r}?"
    return (f"; did you mean {close[0]!r}?" if close else ";") + f" known: {', '.join(choices)}"


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """table[name]. Raises UserError, with the closest that exists, where there is none."""
    if name not in table:
        raise UserError(f"there is no {what} {name!r}{did_you_mean(name, table)}")
    return table[name]
