"""The text of an HTML element, a line per block."""

import re

from bs4.element import NavigableString, Tag

_BLOCKS = {
    "p",
    "div",
    "br",
    "li",
    "ul",
    "ol",
    "tr",
    "table",
    "blockquote",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
}
_SILENT = {"script", "style", "noscript", "template"}


def block_text(tag: Tag) -> str:
    """Return the text of `tag`: a line per block, no empty lines, runs of white space as one blank.

    Inline tags neither split nor glue words, as `get_text` with any one separator would.
    """
    pieces: list[str] = []

    def walk(node: Tag) -> None:
        for child in node.children:
            if isinstance(child, Tag):
                edge = "\n" if child.name in _BLOCKS else " " if child.name in ("td", "th") else ""
                pieces.append(edge)
                if child.name not in _SILENT:
                    walk(child)
                pieces.append(edge)
            elif type(child) is NavigableString:  # and not a comment or another subclass
                pieces.append(re.sub(r"\s+", " ", child))

    walk(tag)
    lines = (" ".join(line.split()) for line in "".join(pieces).split("\n"))
    return "\n".join(line for line in lines if line)
