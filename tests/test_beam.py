"""Beam search against trying everything."""

import itertools
import types

import pytest
import torch

from model import GPT, GPTConfig
from oracle.beam import beam_search
from oracle.cli import UserError
from oracle.engine import cached
from oracle.generate import Engine

V, LENGTH, EOS = 5, 4, 2


@pytest.fixture(scope="module")
def model() -> GPT:
    torch.manual_seed(3)
    model = GPT(GPTConfig(block_size=8, vocab_size=8, n_layer=2, n_head=2, n_embd=16)).eval()
    for p in model.parameters():
        p.data.mul_(6)
    return model


def engine(model, slots):
    return Engine(cached(model, slots), types.SimpleNamespace(vocab_size=V, bos=1, eos=EOS, control=[0, 1, EOS]))


def everything(model, prompt, length_penalty):
    """Every text of up to LENGTH tokens with its score, by plain forward passes."""
    found = {}
    for tokens in itertools.product([2, 3, 4], repeat=LENGTH):
        if EOS in tokens:
            tokens = tokens[: tokens.index(EOS) + 1]
        text = torch.tensor([[*prompt, *tokens]])
        logits = model(text)[0, :, :V].detach().double()
        logits[:, [0, 1]] = -torch.inf
        steps = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
        logprob = sum(float(row[t]) for row, t in zip(steps, tokens, strict=True))
        found[tuple(t for t in tokens if t != EOS)] = logprob / len(tokens) ** length_penalty
    return sorted(found.items(), key=lambda item: -item[1])


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("prompt", [[1], [1, 3], [1, 4, 3]])
def test_with_beams_enough_it_finds_the_best_of_all(model, prompt, length_penalty):
    found = beam_search(engine(model, 60), prompt, 60, LENGTH, length_penalty)
    best = everything(model, prompt, length_penalty)
    assert [tuple(h.tokens) for h in found[:5]] == [tokens for tokens, _ in best[:5]]
    assert [h.score for h in found[:5]] == pytest.approx([score for _, score in best[:5]], abs=1e-5)


def test_one_beam_is_greedy_and_more_are_no_worse(model):
    greedy = beam_search(engine(model, 1), [1], 1, LENGTH)[0]
    text = [1]
    for _ in range(LENGTH):
        logits = model(torch.tensor([text]))[0, -1, :V].detach()
        logits[[0, 1]] = -torch.inf
        text.append(int(logits.argmax()))
    expected = text[1:]
    assert greedy.tokens == (expected[: expected.index(EOS)] if EOS in expected else expected)
    assert beam_search(engine(model, 4), [1], 4, LENGTH)[0].score >= greedy.score


def test_what_cannot_be_is_said(model):
    with pytest.raises(UserError, match="stays within the context"):
        beam_search(engine(model, 2), [1] * 6, 2, 4)
    with pytest.raises(UserError, match="2 beams need 2 places"):
        beam_search(engine(model, 1), [1], 2, 4)
