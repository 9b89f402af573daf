"""A summary as lines of text for a terminal of 120 columns."""
from collections.abc import Sequence

from modern_cnn.cli import text_table
from modern_cnn.inspection.summary import Row, Summary

_COLUMNS = ["layer", "kind", "output", "parameters", "running", "MACs", "output KiB", "field", "stride"]


def lines(summary: Summary) -> list[str]:
    """Return a line for each layer and one for the totals, then the totals in larger units.

    The columns are fields of `summary.Row`: `running` are the running means and variances of batch normalisation,
    `field` is the receptive field.
    """
    total = ["total", "", "", f"{summary.params:,}", f"{summary.bn_running_scalars:,}", f"{summary.macs:,}",
             f"{summary.activation_bytes / 1024:,.1f}", "", ""]
    head, *body, foot = text_table([_COLUMNS, *map(_cells, summary.layers), total], "ll" + "r" * 7)
    rule = "-" * max(map(len, [head, *body, foot]))
    notes = [["parameters", f"{scaled(summary.params)}, {scaled(summary.param_bytes, 'B', 1024)}"],
             ["computation", f"{scaled(summary.macs, 'MAC')} an image"],
             ["activations", f"{scaled(summary.activation_bytes, 'B', 1024)} an image, every output above once"]]
    if summary.norm_params:
        notes.insert(1, ["normalisation", f"{summary.norm_params:,} of the parameters; "
                                          f"{summary.bn_running_scalars:,} running means and variances"])
    if summary.receptive_field:
        notes.append(["receptive field", f"{extent(summary.receptive_field)} pixels, before layers that see all"])
    return [head, rule, *body, rule, foot, "", *text_table(notes)]


def scaled(number: float, unit: str = "", base: int = 1000) -> str:
    """Return a number with four digits and a prefix: 4089184256, 'MAC' -> '4.089 GMAC'; 999 -> '999'.

    Args:
      base: 1000, or 1024 for binary prefixes: 102228128, 'B', 1024 -> '97.49 MiB'.
    """
    prefixes = ("", "k", "M", "G") if base == 1000 else ("", "Ki", "Mi", "Gi")
    power = 0
    while number >= base and power < 3:
        number, power = number / base, power + 1
    digits = format(number, "#.4g").rstrip(".") if power else number
    return f"{digits} {prefixes[power]}{unit}".strip()


def extent(pair: Sequence[int | str]) -> str:
    """Return (height, width) in pixels as text: '43' for a square, else '43x21'."""
    return str(pair[0]) if pair[0] == pair[1] else "x".join(map(str, pair))


def _cells(row: Row) -> list[str]:
    name = row.name if row.calls < 2 else f"{row.name} x{row.calls}"
    numbers = [f"{n:,}" if n else "" for n in (row.params, row.bn_running_scalars, row.macs)]
    if row.output_shape is None or row.receptive_field is None or row.stride is None:  # parameters of no layer
        return [name, row.kind, "", *numbers, "", "", ""]
    stride = extent(row.stride) if any(row.stride) else ""
    return [name, row.kind, "x".join(map(str, row.output_shape)), *numbers, f"{row.activation_bytes / 1024:,.1f}",
            extent(row.receptive_field), stride]
