"""What a model wrote, made safe to show: nothing invisible that could move, hide or forge what is around it."""

# Deleted: control characters but newline and tab (a terminal obeys them), the marks that turn the direction of the
# text around them (Unicode's "Trojan source" characters), zero-width blanks, and the tag characters, with which text
# can be written that nobody sees. Zero-width joiners stay: emoji and Persian are written with them.
_DELETED = (
    *range(0x00, 0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0), 0x061C, 0x200B, 0x200E, 0x200F,
    *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF, *range(0xD800, 0xE000), *range(0xFFF9, 0xFFFC),
    *range(0xE0000, 0xE0080),
)  # fmt: skip
_TABLE: dict[int, str | None] = dict.fromkeys(_DELETED) | {0x2028: "\n", 0x2029: "\n"}


def clean_output(text: str) -> str:
    """`text` without characters that are not text.

    Character by character, so the cleaned pieces of a stream, joined, are the cleaned whole. Markup is left as it is:
    whoever shows the text inserts it as text.
    """
    return text.translate(_TABLE)
