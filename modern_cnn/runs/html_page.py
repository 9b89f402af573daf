"""Pages of HTML that need no other file: their frame, their style and their tables."""
import base64
import html
from collections.abc import Sequence

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 70rem; padding: 1rem; color: #1a1a1a;
  background: #fff }
h1 { font-size: 1.4rem; line-height: 1.25; overflow-wrap: anywhere } h2 { font-size: 1.1rem; margin-top: 2rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap }
pre { overflow-x: auto; background: #f5f5f5; padding: .7rem; font-size: .8rem } summary { cursor: pointer }
"""


def document(title: str, body: str, style: str = "") -> str:
    """Return a page with a title, which is its heading too, and a body of HTML; `style` is CSS after STYLE."""
    return f"""<!doctype html>
<html lang=en><head><meta charset=utf-8><meta name=viewport content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{STYLE}{style}</style></head><body>
<h1>{html.escape(title)}</h1>{body}</body></html>
"""


def picture_uri(png: bytes) -> str:
    """Return a PNG file as an address that holds the file itself."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def table(lines: Sequence[Sequence[str]], marked: int = 0) -> str:
    """Return lines of cells as a table in HTML; `marked` is the number of the line that stands out, or 0."""
    rows = []
    for number, line in enumerate(lines):
        tag = "td" if number else "th"
        cells = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line)
        rows.append(f"<tr{' class=best' if number and number == marked else ''}>{cells}</tr>")
    return f"<div class=wide><table>{''.join(rows)}</table></div>"
