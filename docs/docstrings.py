"""What the reference does to docstrings, as an extension of griffe: it knows a section of code by the name Examples alone."""

from __future__ import annotations

import re
from typing import Any

import griffe


class NamedExamples(griffe.Extension):
    """Code under ``Example:`` is shown as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
