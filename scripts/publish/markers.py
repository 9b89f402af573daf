"""Generated parts of a page: what stands between `<!-- name -->` and `<!-- /name -->`. The rest is written by hand."""
import re
from collections.abc import Callable


def fill(page: str, part: Callable[[str], str]) -> str:
    """Return a page's text with `part(name)` between each pair of markers."""
    def replaced(match: re.Match) -> str:
        return f"<!-- {match[1]} -->\n{part(match[1])}".rstrip("\n") + f"\n<!-- /{match[1]} -->"

    return re.sub(r"<!-- ([\w-]+) -->\n.*?<!-- /\1 -->", replaced, page, flags=re.DOTALL)
