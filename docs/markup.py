"""What Markdown does not say of a page, as a hook of mkdocs: which blocks are sessions, and that a picture can be enlarged."""

from __future__ import annotations

import re
import textwrap
from typing import Any

_SESSION = re.compile(r"^    >>> .*\n(?:(?:    .*)?\n)*?(?=\S|\Z)", re.MULTILINE)
_PICTURE = re.compile(r'(?<!">)<img alt="[^"]+" src="([^"]+)"[^>]*>')


def on_page_markdown(markdown: str, **_: Any) -> str:
    """An indented block of ``>>>`` (a fence would end up in what doctest expects) is coloured, and copied without its prompts."""
    return _SESSION.sub(lambda found: f"```pycon\n{textwrap.dedent(found[0]).rstrip()}\n```\n\n", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """A picture leads to itself, for small screens."""
    return _PICTURE.sub(r'<a class="picture" href="\1">\g<0></a>', html)
