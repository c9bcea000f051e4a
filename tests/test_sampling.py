"""Drawing one token: exactly the support that was asked for, in the right proportions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle import sampling
from oracle.cli import UsageError
from oracle.sampling import Repeats, SamplingParams, draw, penalize

LOGITS = [2.0, 0.0, 1.0, 2.5, 1.5]  # order: 3 0 4 2 1; probabilities .44 .27 .16 .10 .04


def draws(logits, n=400, **options) -> set[int]:
    generator = torch.Generator().manual_seed(0)
    params = SamplingParams(**{"temperature": 1.0} | options)
    return {draw(torch.tensor(logits), params, generator) for _ in range(n)}


@pytest.mark.parametrize(
    ("options", "support"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"top_k": 1}, {3}),
        ({"top_k": 2}, {3, 0}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        ({"top_p": 1e-9}, {3}),
        ({"top_p": 0.45}, {3, 0}),
        ({"top_p": 0.72}, {3, 0, 4}),
        ({"top_p": 0.72, "top_k": 2}, {3, 0}),
        ({"min_p": 0.3}, {3, 0, 4}),
        ({"min_p": 0.3, "top_p": 0.45}, {3, 0}),
        ({"min_p": 0.99}, {3}),
        ({"temperature": 0}, {3}),
        ({"temperature": 0.01}, {3}),
        ({"temperature": 1e-300}, {3}),
    ],
)
def test_support_is_exactly_what_was_asked(options, support):
    assert draws(LOGITS, **options) == support


def test_ties_and_forbidden_tokens():
    assert draws([1.0, 1.0, 0.0], temperature=0) == {0}
    assert draws([1.0, 1.0, 1.0], top_k=2) == {0, 1}
    assert draws([1.0, -torch.inf, 1.0]) == {0, 2}
    assert draws([-torch.inf, 1.0, -torch.inf], top_k=3) == {1}


def test_frequencies_follow_the_softmax():
    generator = torch.Generator().manual_seed(1)
    logits, params = torch.tensor([0.0, 1.0]), SamplingParams(temperature=1.0)
    ones = sum(draw(logits, params, generator) for _ in range(4000)) / 4000
    assert ones == pytest.approx(torch.sigmoid(torch.tensor(1.0)).item(), abs=0.03)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000), top_k=st.integers(0, 40), top_p=st.floats(0.01, 1), levels=st.sampled_from([2, 5, 10**6])
)
def test_sorting_only_the_head_changes_nothing(seed, top_k, top_p, levels):
    logits = torch.randint(levels, (60,), generator=torch.Generator().manual_seed(seed)).float() * 8 / levels
    params = SamplingParams(temperature=1.0, top_k=top_k, top_p=top_p)
    drawn = []
    for head in (8, 512):
        original, sampling.HEAD = sampling.HEAD, head
        try:
            generator = torch.Generator().manual_seed(seed)
            drawn.append([draw(logits, params, generator) for _ in range(20)])
        finally:
            sampling.HEAD = original
    assert drawn[0] == drawn[1]


def test_a_penalty_makes_seen_tokens_less_likely_whatever_their_sign():
    logits = torch.tensor([2.0, -2.0, 1.0])
    penalize(logits, [0, 1, 0], 2.0)
    assert logits.tolist() == [1.0, -4.0, 1.0]


@given(tokens=st.lists(st.integers(0, 3), max_size=30), n=st.integers(1, 4))
def test_repeats_knows_every_token_that_would_repeat_an_ngram(tokens, n):
    grams = {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}
    tail = tokens[len(tokens) - n + 1 :] if n > 1 else []
    expected = [t for t in range(4) if len(tail) == n - 1 and (*tail, t) in grams]
    assert Repeats(n, tokens).forbidden() == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -1}, {"min_p": 1},
        {"repetition_penalty": 0}, {"no_repeat_ngram": -1}, {"stop": ("",)}, {"max_new_tokens": 0}, {"logprobs": 99},
    ],
)  # fmt: skip
def test_values_that_mean_nothing_are_named(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SamplingParams(**wrong)
