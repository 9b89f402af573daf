"""Texts of errors are one line of at most 600 letters, whatever a user gives."""
import pickle

import pytest

from modern_cnn.errors import UserError


@pytest.mark.parametrize("text", ["a\nb\r\nc", "a" * 100_000, "\u2028".join("abc" * 1000), f"no file {'x' * 4096}"])
def test_any_text_becomes_one_short_line(text):
    told = str(UserError(text))
    assert len(told) <= 600
    assert len(told.splitlines()) == 1
    assert told[:1] + told[-1:] == text[:1] + text[-1:]
    assert str(pickle.loads(pickle.dumps(UserError(text)))) == told


def test_a_text_of_600_letters_stays():
    assert str(UserError("ab " * 200)) == "ab " * 200
