"""A hook of the documentation site: links to files outside docs/ become their paths, since the site has no copies."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./|schemas/)([^)]*)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs calls this with a page's text."""
    return OUTSIDE.sub(r"\1 (`\2`)", markdown)
