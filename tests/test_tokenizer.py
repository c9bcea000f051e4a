"""The tokenizer: exact round trips, no forged control tokens, and a cache that changes nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle.cli import UserError
from oracle.stream import TextStream
from oracle.text import normalize
from oracle.tokenizer import BOS, CHAT_TOKENS, EOS, RESERVED, Tokenizer, train_tokenizer
from tests.conftest import make_text

# Greek, blanks in rows, template tokens, emoji, other scripts, digits, whatever.
PIECES = st.sampled_from(
    [*CHAT_TOKENS, "<s>", "</s>", "<unk>", "<0x41>", "Καλημέρα", "  ", "\n\n", "\t", "😀", "č", "漢", "12"]
)
TEXTS = st.lists(PIECES | st.text(max_size=8), max_size=12).map("".join).map(normalize)


@pytest.fixture(scope="module", params=["bpe", "unigram", "char"])
def any_tokenizer(request, tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp(request.param) / "tokenizer.model"
    train_tokenizer([make_text(i) for i in range(80)], path, request.param, 380)
    return Tokenizer(path)


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_round_trip_without_control_ids(any_tokenizer, text):
    ids = any_tokenizer.encode(text)
    assert any_tokenizer.decode(ids) == text
    assert not set(ids) & set(any_tokenizer.control)
    assert any_tokenizer._model.decode(ids) == text, "SentencePiece agrees"


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(TEXTS, max_size=4))
def test_the_word_cache_gives_the_same_ids(any_tokenizer, texts):
    for text, ids in zip(texts, any_tokenizer.encode_documents(texts), strict=True):
        assert ids.tolist() == [BOS, *any_tokenizer.encode(text), EOS]


@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_streamed_text_is_the_decoded_text(any_tokenizer, text):
    ids = any_tokenizer.encode(text)
    stream, shown = TextStream(any_tokenizer), [""]
    for token in ids:
        stream.push(token)
        assert stream.text.startswith(shown[-1]) and "\ufffd" not in stream.text
        shown.append(stream.text)
    assert stream.text == text


def test_cache_stays_bounded(any_tokenizer, monkeypatch):
    monkeypatch.setattr("oracle.tokenizer.CACHE_UNITS", 10)
    for number in range(5):
        any_tokenizer.encode_documents([make_text(number)])
    assert len(any_tokenizer._cache) <= 10 + 80


def test_special_tokens_have_fixed_places(any_tokenizer):
    assert any_tokenizer.control[:4] == [0, 1, 2, 3]
    ids = [any_tokenizer.chat_id(name) for name in (*CHAT_TOKENS, *RESERVED)]
    assert ids == list(range(4, 4 + len(ids)))
    assert all(any_tokenizer.piece_bytes[i] == b"" for i in ids)
    assert len(any_tokenizer.byte_ids) == 256
    with pytest.raises(UserError, match="no control token"):
        any_tokenizer.chat_id("<|tool|>")


def test_broken_bytes_become_replacement_characters(any_tokenizer):
    alpha = [i for i in any_tokenizer.byte_ids if any_tokenizer.piece_bytes[i] == b"\xce"]
    assert any_tokenizer.decode(alpha) == "\ufffd"


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_vocabulary_the_text_cannot_fill(tmp_path, kind):
    path = tmp_path / "t.model"
    with pytest.raises(UserError, match=r"more than this text supports.*at most"):
        train_tokenizer([make_text(0)], path, kind, 30_000)
    assert not path.exists()


def test_a_vocabulary_too_small_for_the_alphabet(tmp_path):
    text = "".join(chr(0x4E00 + i) for i in range(400))
    with pytest.raises(UserError, match="too small"):
        train_tokenizer([text], tmp_path / "t.model", "bpe", 300, character_coverage=1.0)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(UserError, match="no tokenizer there"):
        Tokenizer(tmp_path / "none.model")
    (tmp_path / "foreign.model").write_bytes(b"not a model")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        Tokenizer(tmp_path / "foreign.model")


def test_ids_take_the_smallest_type(any_tokenizer):
    assert any_tokenizer.encode_documents(["α"])[0].dtype == np.dtype("<u2")
