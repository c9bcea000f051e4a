"""Model output is cleaned of what is no text, and of nothing else."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from oracle.plaintext import clean_output


def test_controls_and_direction_marks_go_and_markup_stays():
    assert clean_output("α\x00\x1b[31mβ\x7f\x85\rγ\u202eδ\u2066ε\u200f\ufeff\U000e0041") == "α[31mβγδε"
    assert clean_output("<script>alert(1)</script>\n\t*_`&amp;`_*") == "<script>alert(1)</script>\n\t*_`&amp;`_*"
    assert clean_output("μία\u2028άλλη") == "μία\nάλλη"
    assert clean_output("👩\u200d🌾 «Ά·» ½ 𝕏 e\u0301") == "👩\u200d🌾 «Ά·» ½ 𝕏 e\u0301"


@given(st.text())
def test_what_is_left_is_visible_or_joins(text):
    left = clean_output(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in left)
    assert not any(
        unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI") for c in left
    )
    assert clean_output(left) == left


@given(st.lists(st.text(max_size=5)))
def test_pieces_are_cleaned_as_the_whole(pieces):
    assert "".join(map(clean_output, pieces)) == clean_output("".join(pieces))
