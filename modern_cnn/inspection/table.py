"""A summary as lines of text, for a terminal of 120 columns."""
from collections.abc import Sequence

from modern_cnn.inspection.summary import Row, Summary

# name of a column, and whether it is flush right
COLUMNS = {"layer": False, "kind": False, "output": True, "parameters": True, "running": True, "MACs": True,
           "output KiB": True, "field": True, "stride": True}


def lines(summary: Summary) -> list[str]:
    """A line for each layer and one for the totals, and below what these come to in larger units.

    `running` are the running means and variances of batch normalisation, `field` is the receptive field: what these
    and the other columns count is said at `summary.Row`.
    """
    total = ["total", "", "", f"{summary.params:,}", f"{summary.bn_running_scalars:,}", f"{summary.macs:,}",
             f"{summary.activation_bytes / 1024:,.1f}", "", ""]
    head, *body, foot = align([list(COLUMNS), *map(_cells, summary.layers), total], list(COLUMNS.values()))
    rule = "-" * max(map(len, [head, *body, foot]))
    notes = [["parameters", f"{scaled(summary.params)}, {scaled(summary.param_bytes, 'B', 1024)}"],
             ["computation", f"{scaled(summary.macs, 'MAC')} an image"],
             ["activations", f"{scaled(summary.activation_bytes, 'B', 1024)} an image, every output above once"]]
    if summary.norm_params:
        notes.insert(1, ["normalisation", f"{summary.norm_params:,} of the parameters; "
                                          f"{summary.bn_running_scalars:,} running means and variances"])
    if summary.receptive_field:
        notes.append(["receptive field", f"{extent(summary.receptive_field)} pixels, before layers that see all"])
    return [head, rule, *body, rule, foot, "", *align(notes, [False, False])]


def align(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Rows of equally many cells as lines, each column as wide as its widest cell; `right`: which are flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) if flush else cell.ljust(width)
                      for cell, width, flush in zip(row, widths, right, strict=True)).rstrip() for row in rows]


def scaled(number: float, unit: str = "", base: int = 1000) -> str:
    """Four digits and a prefix: 4089184256, 'MAC' -> '4.089 GMAC'; 102228128, 'B', 1024 -> '97.49 MiB'."""
    prefixes = ("", "k", "M", "G") if base == 1000 else ("", "Ki", "Mi", "Gi")
    power = 0
    while number >= base and power < 3:
        number, power = number / base, power + 1
    digits = format(number, "#.4g").rstrip(".") if power else number
    return f"{digits} {prefixes[power]}{unit}".strip()


def extent(pair: Sequence[int | str]) -> str:
    """(height, width) in pixels: 43 for a square, else 43x21."""
    return str(pair[0]) if pair[0] == pair[1] else "x".join(map(str, pair))


def _cells(row: Row) -> list[str]:
    name = row.name if row.calls < 2 else f"{row.name} x{row.calls}"
    numbers = [f"{n:,}" if n else "" for n in (row.params, row.bn_running_scalars, row.macs)]
    if row.output_shape is None:
        return [name, row.kind, "", *numbers, "", "", ""]
    stride = extent(row.stride) if any(row.stride) else ""
    return [name, row.kind, "x".join(map(str, row.output_shape)), *numbers, f"{row.activation_bytes / 1024:,.1f}",
            extent(row.receptive_field), stride]
