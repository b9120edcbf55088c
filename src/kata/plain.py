"""Texts of guests, images and registries for the eyes of people: nothing that steers a terminal gets through.

Used wherever such a text is shown or becomes part of an error. No imports: every process has it.
"""

from __future__ import annotations


def plain(text: str, *, keep: str = "", instead: str = " ") -> str:
    """`text` with `instead` for each character that is not printable (str.isprintable) and not in `keep`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else instead for char in text)
