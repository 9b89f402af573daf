"""The grid of a sweep: which fields, and which values, from the text of --sweep flags."""
import ast
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import ml_collections

from modern_cnn import settings
from modern_cnn.errors import UserError

LARGEST = 10_000  # trials


def parse(sweeps: Sequence[str], config: ml_collections.ConfigDict) -> dict[str, list]:
    """Return {field: its values} for `field=1,2`, `field=0:8` or `field=0:8:2` (the end is left out), `field=a,b`.

    Text with commas is in double quotes: field="a,b",c.
    Raise UserError for an unknown field, a value of another type, a field or value that is given twice, an empty range.
    """
    fields: dict[str, list] = {}
    for given in sweeps:
        field, equals, text = given.partition("=")
        field = field.removeprefix("config.")
        if not equals or not text:
            raise UserError(f"--sweep={given} is not of the form --sweep=seed=0:8 or --sweep=model.norm=batch,none")
        if field in fields:
            raise UserError(f"--sweep={field}= is given twice; put its values into one, with commas")
        section, last = settings.locate(config, field)
        kind = section.get_type(last)
        values = [value for part in _parts(text) for value in _values(field, part, kind)]
        if math.prod(map(len, fields.values())) * len(values) > LARGEST:
            raise UserError(f"--sweep={given} makes more than {LARGEST:,} trials")
        twice = [value for i, value in enumerate(values) if value in values[:i]]
        if twice or not values:
            raise UserError(f"--sweep={given}: " + (f"{twice[0]} is there twice" if twice else "there is no value"))
        fields[field] = values
    if not fields:
        raise UserError("--sweep is missing: which fields, and which values? For example --sweep=seed=0:8")
    return fields


def _parts(text: str) -> list[str]:
    """Return 'a,b' in two parts; commas inside brackets or double quotes do not divide."""
    depth, quoted, parts = 0, False, [""]
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        quoted ^= letter == '"'
        if letter == "," and not depth and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _values(field: str, text: str, kind: type) -> list[Any]:
    """Return the values that `text`, which has no commas, stands for; an unset option may be of any type."""
    try:
        if kind is str:
            return [text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text]
        if kind is bool:
            return [{"true": True, "false": False}[text.lower()]]
        if kind in (int, float):
            if ":" not in text:
                return [kind(text)]
            full = text if text.count(":") > 1 else f"{text}:1"
            start, end, step = map(Decimal, full.split(":"))  # as floats, 0.1:0.4:0.1 would have four values
            count = min(math.ceil((end - start) / step), LARGEST + 1)  # more are refused
            numbers = [start + i * step for i in range(count)]
            if kind is int and any(number % 1 for number in numbers):
                raise ValueError("a fraction")
            return [kind(number) for number in numbers]
        value = ast.literal_eval(text)
        return [tuple(value) if kind is tuple else value]
    except (ValueError, SyntaxError, KeyError, TypeError, ArithmeticError):
        if kind is type(None):
            return [text]
        raise UserError(f"--sweep={field}: {text!r} is not a valid {kind.__name__}"
                        + (", nor a range a:b or a:b:step" if kind in (int, float) else "")) from None
