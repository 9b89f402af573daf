"""What a person reads when the input is wrong: one line that says what, where, and what to do."""
import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input, told in one line. Scripts print it without a traceback and exit with 1."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """`'; did you mean X? Known: a, b'` for an error about `name`; the closest match comes first."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return (f"; did you mean {close[0]!r}?" if close else ";") + f" known: {', '.join(choices)}"
