"""What mkdocs changes in the pages of docs/ before it builds the site (mkdocs.yml names this file as a hook).

The pages are written for the repository. There, links lead to source files; a site has none, so they become links to
`repo_url` where mkdocs.yml has one, and code text elsewhere. `<!-- api: modern_cnn.layers -->` becomes the module's
docstrings.
"""
import posixpath
import re
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)\s#]*)(#[^)]*)?\)")
API = re.compile(r"^<!-- api: ([\w.]+) -->$", re.MULTILINE)


def rewrite(markdown: str, page: str, repo_url: str | None = None) -> str:
    """Return the text of the page at the path `page` below docs/ as the site shows it."""
    def replaced(match: re.Match) -> str:
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), match[2]))
        if path.startswith("docs/"):
            return match[0]
        if repo_url:
            return f"[{match[1]}]({repo_url.rstrip('/')}/blob/main/{path}{match[3] or ''})"
        return match[1] if "`" in match[1] else f"`{match[1]}`"

    return API.sub(r"::: \1", LINK.sub(replaced, markdown))


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Return the text of a page; mkdocs calls this."""
    return rewrite(markdown, page.file.src_uri, config.repo_url)
