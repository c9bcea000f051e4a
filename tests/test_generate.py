"""The engine: cached equals uncached, together equals alone, and every way to end a request."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import GPT, GPTConfig
from oracle import generate
from oracle.cli import UserError
from oracle.engine import Span, Uncached, cached
from oracle.generate import Engine
from oracle.sampling import SamplingParams
from oracle.stream import TextStream

SHAPE = GPTConfig(block_size=16, vocab_size=512, n_layer=3, n_head=2, n_embd=32)


@pytest.fixture(scope="module")
def model() -> GPT:
    torch.manual_seed(0)
    model = GPT(SHAPE).eval()
    for p in model.parameters():
        p.data.mul_(4)  # far from the uniform distribution, so that a mistake shows
    return model


def prompts_of(lengths) -> list[list[int]]:
    return [[1, *(20 + (7 * i + n) % 350 for i in range(n))] for n in lengths]


@settings(max_examples=25, deadline=None)
@given(parts=st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_cached_logits_are_the_uncached_ones(model, parts):
    network, text = (
        cached(model, slots=2),
        torch.randint(400, (sum(parts),), generator=torch.Generator().manual_seed(1)),
    )
    text = text[: SHAPE.block_size]
    whole = model(text[None])[0]
    start = 0
    for count in parts:
        piece = text[start : start + count]
        if len(piece):
            logits = network.forward(piece, [Span(1, start, len(piece))], every=True)
            torch.testing.assert_close(logits, whole[start : start + len(piece)], rtol=1e-4, atol=1e-4)
        start += count


@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("prefill", [3, 256])
def test_together_or_alone_cached_or_not_the_text_is_the_same(model, tokenizer, monkeypatch, slots, prefill):
    monkeypatch.setattr(generate, "PREFILL", prefill)
    prompts = prompts_of([0, 3, 9, 15, 2])
    params = [SamplingParams(max_new_tokens=30, seed=n, temperature=1.0, top_k=50 * n) for n in range(5)]
    together = Engine(cached(model, slots), tokenizer).complete(prompts, params)
    for prompt, own, one in zip(prompts, params, together, strict=True):
        alone = Engine(Uncached(model), tokenizer).complete([prompt], own)[0]
        assert one.tokens == alone.tokens and one.text == alone.text and one.finish_reason == alone.finish_reason
    assert any(len(one.prompt) + len(one.tokens) > SHAPE.block_size for one in together)  # contexts did slide


def test_when_the_context_is_full_the_newer_half_stays(model, tokenizer):
    seen = []

    class Watching(Uncached):
        def forward(self, tokens, spans, every=False):
            logits = super().forward(tokens, spans, every)
            seen.append(list(self._texts[0]))
            return logits

    request = Engine(Watching(model), tokenizer).complete(prompts_of([14]), SamplingParams(max_new_tokens=5))[0]
    text = request.prompt + request.tokens
    assert [len(context) for context in seen] == [15, 16, 8, 9, 10]
    assert seen[2] == text[9:17]


def test_no_control_id_is_written_and_the_vocabulary_is_the_tokenizers(model, tokenizer):
    request = Engine(cached(model), tokenizer).complete([[1]], SamplingParams(max_new_tokens=100, temperature=5.0))[0]
    assert len(request.tokens) > 20
    assert max(request.tokens) < tokenizer.vocab_size and not set(request.tokens) & set(tokenizer.control)


def scripted(tokenizer, script):
    """An engine whose model says `script`, token by token."""

    class Scripted:
        config, slots, bytes_per_token = SHAPE, 1, 0

        def forward(self, tokens, spans, every=False):
            rows = [script[min(s.start + s.count - 1, len(script) - 1)] for s in spans]
            return torch.nn.functional.one_hot(torch.tensor(rows), 512).float() * 50

    return Engine(Scripted(), tokenizer)


def test_ends_at_the_end_of_text_and_at_stop_tokens(tokenizer):
    user = tokenizer.chat_id("<|user|>")
    for end, params in ((tokenizer.eos, SamplingParams()), (user, SamplingParams(stop_tokens=(user,)))):
        request = scripted(tokenizer, [50, 51, end]).complete([[1]], params)[0]
        assert request.tokens == [50, 51] and request.finish_reason == "stop"


def test_stop_texts_are_never_shown_in_part(tokenizer):
    ids = tokenizer.encode("Το λιμάνι είπε όχι. Τέλος εδώ")
    engine = scripted(tokenizer, ids)
    request, shown = engine.submit([1], SamplingParams(stop=("πε όχ", "Τέλος"), max_new_tokens=40)), ""
    while not request.finish_reason:
        engine.step()
        shown += request.take()
        assert "πε όχ".startswith(shown[len("Το λιμάνι εί") :])
    assert shown == request.text == "Το λιμάνι εί" and request.finish_reason == "stop"


@settings(max_examples=100, deadline=None)
@given(text=st.text("αβ γ", max_size=30), stops=st.lists(st.text("αβγ", min_size=1, max_size=4), max_size=3))
def test_stop_texts_against_the_plain_search(tokenizer, text, stops):
    """Token by token: the earliest moment a stop text is complete, cut before it."""
    stream, ids, expected, shown = TextStream(tokenizer, stops), tokenizer.encode(text), None, ""
    for n, token in enumerate(ids, start=1):
        stream.push(token)
        assert stream.text.startswith(shown)
        shown = stream.text
        so_far = tokenizer.decode(ids[:n]).rstrip("\ufffd")
        found = [so_far.find(stop) for stop in stops if stop in so_far]
        if found:
            expected = so_far[: min(found)]
            break
    stream.finish()
    assert stream.text == (text if expected is None else expected) and stream.stopped == (expected is not None)


def test_half_a_character_waits_and_ends_as_a_replacement(tokenizer):
    first, second = (next(i for i in tokenizer.byte_ids if tokenizer.piece_bytes[i] == b) for b in (b"\xce", b"\xb1"))
    stream = TextStream(tokenizer)
    stream.push(first)
    assert stream.text == ""
    stream.push(second)
    assert stream.text == "α"
    stream.push(first)
    stream.finish()
    assert stream.text == "α\ufffd"


def test_penalty_and_ngrams_reach_the_draw(model, tokenizer):
    def write(**options):
        return (
            Engine(cached(model), tokenizer).complete([[1, 30]], SamplingParams(80, temperature=0, **options))[0].tokens
        )

    plain, varied = write(), write(no_repeat_ngram=2)
    pairs = list(itertools.pairwise(varied))
    assert len(set(pairs)) == len(pairs) and len(set(plain)) < len(set(write(repetition_penalty=3.0)))


def test_logprobs_are_the_models_own(model, tokenizer):
    params = SamplingParams(max_new_tokens=5, temperature=0.5, top_k=3, logprobs=4)
    request = Engine(cached(model), tokenizer).complete([[1, 30, 40]], params)[0]
    text = torch.tensor([[1, 30, 40, *request.tokens]])
    expected = torch.log_softmax(model(text)[0, :, : tokenizer.vocab_size].detach(), dim=-1)[2:]
    assert [item.token for item in request.logprobs] == request.tokens
    for item, row in zip(request.logprobs, expected, strict=False):
        assert item.logprob == pytest.approx(float(row[item.token]), abs=1e-4)
        assert [t for t, _ in item.top] == row.topk(4).indices.tolist()


def test_cancelling_frees_the_place_for_whoever_waits(model, tokenizer):
    engine = Engine(cached(model), tokenizer)
    first, second, third = (engine.submit(p, SamplingParams(max_new_tokens=3)) for p in prompts_of([2, 2, 2]))
    engine.step()
    assert engine.active == [first] and engine.free == -2
    first.cancel()
    third.cancel()
    while not second.finish_reason:
        engine.step()
    assert first.finish_reason == third.finish_reason == "cancelled" and len(second.tokens) == 3 and engine.free == 1


def test_a_conversation_that_goes_on_is_not_read_again(model, tokenizer):
    read = []

    class Counting:
        config, slots, bytes_per_token, inner = SHAPE, 2, 0, cached(model, 2)

        def forward(self, tokens, spans, every=False):
            read.append(len(tokens))
            return self.inner.forward(tokens, spans, every)

    engine = Engine(Counting(), tokenizer)
    prompt = prompts_of([6])[0]
    engine.complete([prompts_of([3])[0][::-1]], SamplingParams(max_new_tokens=1))
    said = engine.complete([prompt], SamplingParams(max_new_tokens=3))[0].tokens
    read.clear()
    longer = [*prompt, *said, 60]
    again = engine.complete([longer], SamplingParams(max_new_tokens=2))[0]
    assert read[0] == 2  # the last token said and the new one
    assert (
        again.tokens == Engine(cached(model), tokenizer).complete([longer], SamplingParams(max_new_tokens=2))[0].tokens
    )


def test_warming_up_takes_every_width_and_leaves_no_trace(model, tokenizer, monkeypatch):
    engine, params = (
        Engine(cached(model, slots=5), tokenizer),
        SamplingParams(max_new_tokens=8, seed=3, temperature=1.0),
    )
    (prompt,) = prompts_of([4])
    (before,) = engine.complete([prompt], params)
    widths, forward = [], engine.network.forward
    monkeypatch.setattr(
        engine.network, "forward", lambda tokens, spans: widths.append(len(spans)) or forward(tokens, spans)
    )
    engine.warm_up()
    assert widths == [1, 5, 1, 4, 1, 2, 1, 1]  # a prompt of so many tokens, and so many texts
    (after,) = engine.complete([prompt], params)  # the text in the cache was forgotten: nothing of it is taken for read
    assert after.tokens == before.tokens
    engine.submit(prompt, params)
    engine.step()
    with pytest.raises(UserError, match="let them end first"):
        engine.warm_up()


def test_bad_requests_are_one_sentence(model, tokenizer):
    engine = Engine(cached(model), tokenizer)
    with pytest.raises(UserError, match="no tokens"):
        engine.submit([], SamplingParams())
    with pytest.raises(UserError, match="17 tokens, the context holds 16"):
        engine.submit([1] * 17, SamplingParams())
    assert len(engine.complete([[1] * 16], SamplingParams(max_new_tokens=2))[0].tokens) == 2


def test_ruined_weights_are_one_sentence(tokenizer):
    model = GPT(SHAPE).eval()
    model.wte.weight.data.fill_(torch.nan)
    with pytest.raises(UserError, match="not numbers"):
        Engine(cached(model), tokenizer).complete([[1]], SamplingParams())


def test_closing_a_stream_ends_the_request(model, tokenizer):
    engine = Engine(cached(model), tokenizer)
    pieces = engine.stream([1, 30], SamplingParams(max_new_tokens=500))
    next(pieces)
    pieces.close()
    engine.step()
    assert not engine.active
