"""Packing: nothing lost, nothing seen twice, and the loss that unpacked conversations have."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import GPT, IGNORE, GPTConfig
from oracle.dist import World
from oracle.packing import ConversationBatches, PackedRows, Sample, best_fit, fit
from oracle.stage import Place

BLOCK = 16
CPU = Place(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def model() -> GPT:
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=BLOCK, vocab_size=64, n_layer=2, n_head=2, n_embd=16))
    for p in model.parameters():
        p.data.mul_(4)
    return model


def samples_of(lengths, seed=0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    out = []
    for number, n in enumerate(lengths):
        mask = np.arange(n) >= max(1, n // 2)
        out.append(Sample(f"s{number}", rng.integers(4, 64, n).astype(np.uint16), mask))
    return out


@given(lengths=st.lists(st.integers(1, 20), max_size=60))
def test_best_fit_fits_and_loses_nothing(lengths):
    rows = best_fit(lengths, 20)
    assert sorted(n for row in rows for n in row) == list(range(len(lengths)))
    assert all(sum(lengths[n] for n in row) <= 20 for row in rows)
    assert sum(sum(lengths[n] for n in row) <= 10 for row in rows) <= 1  # two half-empty rows would be one


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(2, BLOCK + 1), min_size=1, max_size=12), weight=st.sampled_from([0.0, 0.3]))
def test_packed_equals_unpacked(model, lengths, weight):
    samples = samples_of(lengths)
    rows = PackedRows(samples, BLOCK, weight)
    x, y, places, weights = (torch.from_numpy(a) for a in rows.take(range(len(rows))))
    packed = (model(x, y, places, reduction="none") * weights.flatten()).sum()
    alone, count = torch.zeros(()), 0.0
    for s in samples:
        ids = torch.from_numpy(s.ids.astype(np.int64))
        w = torch.where(torch.from_numpy(s.mask[1:]), 1.0, weight)
        alone = alone + (model(ids[None, :-1], ids[None, 1:], reduction="none") * w).sum()
        count += float(w.sum())
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-3)
    assert float(weights.sum()) == pytest.approx(count)
    gradients = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for loss in (packed, alone)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-3)


def test_too_long_is_cut_or_dropped_and_counted_and_nothing_is_without_a_target():
    samples = samples_of([5, BLOCK + 1, BLOCK + 2, 60, 9])
    samples.append(Sample("silent", samples[0].ids, np.zeros(5, bool)))
    assert [s.id for s in fit(samples, BLOCK, cut=False).samples] == ["s0", "s1", "s4"]
    cut = fit(samples, BLOCK, cut=True)
    assert [s.id for s in cut.samples] == ["s0", "s1", "s2", "s4"] and (cut.cut, cut.dropped) == (1, 2)
    assert all(len(s.ids) <= BLOCK + 1 and s.mask[1:].any() for s in cut.samples)
    assert "1 too long and cut" in str(cut) and "2 left out" in str(cut)


@pytest.mark.parametrize("sequences", [1, 3, 4])
def test_every_sample_once_in_an_epoch_and_rows_move(sequences):
    samples = samples_of([2 + n % 9 for n in range(40)])
    rows = PackedRows(samples, BLOCK)
    batches = ConversationBatches(rows, sequences, 2, seed=1, place=CPU)
    steps = [batches.documents(s) for s in range(3 * len(rows))]
    seen = [name for step in steps for name in step]
    rows_seen = [tuple(rows.ids([n])) for s in range(3 * len(rows)) for n in batches._rows_of(s)[0]]
    epoch = rows_seen[: len(rows)]
    assert sorted(name for row in epoch for name in row) == sorted(s.id for s in samples)
    assert epoch != rows_seen[len(rows) : 2 * len(rows)] and len(seen) >= 3 * len(samples)


def test_a_batch_is_a_function_of_seed_and_step_and_ranks_share_it():
    rows = PackedRows(samples_of([2 + n % 9 for n in range(40)]), BLOCK)
    whole = ConversationBatches(rows, 4, 4, seed=1, place=CPU).step(5)
    halves = [
        ConversationBatches(rows, 4, 2, 1, Place(CPU.device, CPU.dtype, World(rank, 2))).step(5) for rank in range(2)
    ]
    for part in range(3):
        assert torch.equal(whole.micro_batches[0][part], torch.cat([h.micro_batches[0][part] for h in halves]))
    assert whole.n_targets == halves[0].n_targets == float((whole.micro_batches[0][1] != IGNORE).sum())


def test_running_text_has_its_share(prepared):
    from oracle.loader import Windows

    rows = PackedRows(samples_of([2 + n % 9 for n in range(40)]), BLOCK)
    windows = Windows(prepared.train, BLOCK, 1)
    batches = ConversationBatches(rows, 4, 4, 1, CPU, mix=0.3, windows=windows)
    texts = [batches._rows_of(step)[1] for step in range(100)]
    assert sum(map(len, texts)) == 120 and [n for t in texts for n in t] == list(range(120))
    x, y, places = batches.step(3).micro_batches[0]
    text = windows.take(texts[3].start, len(texts[3]))
    assert x.shape == (4, BLOCK) and np.array_equal(x[-1], text[-1, :-1]) and np.array_equal(y[-1], text[-1, 1:])
    assert places[-1].tolist() == list(range(BLOCK)) and any("d" in name for name in batches.documents(3))
