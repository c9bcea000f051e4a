"""Batches: every token once per epoch, a pure function of (seed, step), whatever the split into micro-batches."""

import itertools

import numpy as np
import pytest
import torch

from oracle.cli import UserError
from oracle.loader import PretrainingBatches, Windows
from oracle.shards import Split, SplitWriter


def make_split(folder, lengths, shard_tokens=50) -> Split:
    """Documents whose tokens are all different, so that every one can be followed."""
    writer, first = SplitWriter(folder, "train", np.dtype("<u4"), shard_tokens), 0
    for length in lengths:
        writer.add(np.arange(first, first + length), length, f"id{first}")
        first += length
    return Split(folder, writer.close(), np.dtype("<u4"), verify=False)


LENGTHS = [5, 1, 30, 2, 17, 8, 64, 3, 3, 11]


@pytest.fixture
def split(tmp_path):
    return make_split(tmp_path, LENGTHS)


@pytest.mark.parametrize("block_size", [4, 7, 16])
def test_every_token_is_a_target_once_per_epoch(split, block_size):
    windows = Windows(split, block_size, seed=1)
    epochs = 3
    count = -(-epochs * split.tokens // block_size)
    taken = windows.take(0, count)
    inputs = np.bincount(taken[:, :-1].ravel(), minlength=split.tokens)
    spill = count * block_size - epochs * split.tokens  # the last window runs into the next epoch
    assert inputs.sum() == epochs * split.tokens + spill
    assert inputs.min() >= epochs and np.sum(inputs - epochs) == spill


def test_windows_are_consecutive_text(split):
    """Within a document each token follows its predecessor; a jump happens only from a document's end to a start."""
    starts = {int(split.document(i)[0]) for i in range(len(split))}
    ends = {int(split.document(i)[-1]) for i in range(len(split))}
    for window in Windows(split, 16, seed=3).take(0, 40):
        for before, after in itertools.pairwise(window):
            assert after == before + 1 or (before in ends and after in starts)


def test_epochs_differ_and_windows_are_shuffled(split):
    windows = Windows(split, 8, seed=1)
    per_epoch = split.tokens // 8
    first, second = windows.take(0, per_epoch), windows.take(per_epoch, per_epoch)
    assert not np.array_equal(first, second)
    stream_order = np.array_equal(first[:-1, -1], first[1:, 0])
    assert not stream_order


def test_pure_function_of_seed_and_step(split):
    one, other = Windows(split, 8, seed=5), Windows(split, 8, seed=5)
    later = one.take(40, 6)
    assert np.array_equal(other.take(0, 50)[40:46], later)
    assert np.array_equal(one.take(40, 6), later), "asking again, out of order"
    assert not np.array_equal(Windows(split, 8, seed=6).take(40, 6), later)


def test_micro_batches_only_cut_the_step(split):
    windows = Windows(split, 8, seed=2)
    cpu = torch.device("cpu")
    whole, cut = (PretrainingBatches(windows, 6, size, cpu) for size in (6, 2))
    for step in (0, 1, 9, 3):
        one, many = whole.step(step), cut.step(step)
        assert len(one.micro_batches) == 1 and len(many.micro_batches) == 3
        assert torch.equal(one.micro_batches[0][0], torch.cat([x for x, _ in many.micro_batches]))
        assert one.n_targets == many.n_targets == 48
        x, y = one.micro_batches[0]
        assert torch.equal(x[:, 1:], y[:, :-1])


def test_one_long_document(tmp_path):
    windows = Windows(make_split(tmp_path, [101]), 10, seed=0)
    assert set(windows.take(0, 11)[:, :-1].ravel().tolist()) == set(range(101))


def test_less_text_than_one_window(split):
    with pytest.raises(UserError, match="fewer than one window of block_size=144"):
        Windows(split, sum(LENGTHS), seed=0)
    assert Windows(split, sum(LENGTHS) - 1, seed=0).take(0, 2).shape == (2, 144)
