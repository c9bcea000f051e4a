"""The loss of pairs: as its papers have it, as TRL has it, and packed as alone."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model import GPT, GPTConfig
from oracle.dpo import Objective, PreferenceLoss, figures
from oracle.packing import Sample
from oracle.pairs import PairBatches, PairRows, Texts
from oracle.preferences import Pair
from oracle.preferring import held_out
from oracle.reference import Reference, logps_of, read_reference, write_reference
from oracle.stage import Place

CPU = Place(torch.device("cpu"), torch.float32)
SHAPE = GPTConfig(block_size=32, vocab_size=64, n_layer=2, n_head=2, n_embd=32)


def random_model(seed=0) -> GPT:
    torch.manual_seed(seed)
    model = GPT(SHAPE)
    for p in model.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    return model


def random_texts(count=9, seed=0) -> list[Texts]:
    rng = np.random.default_rng(seed)
    out = []
    for number in range(count):
        prompt = rng.integers(4, 64, 2 + number % 4)
        sides = []
        for length in (3 + number % 5, 2 + number % 7):
            ids = np.concatenate([prompt, rng.integers(4, 64, length)])
            sides.append(Sample(f"p{number}", ids, np.arange(len(ids)) >= len(prompt)))
        out.append(Texts(Pair(f"p{number}", "", (), "a", "b", "even" if number % 2 == 0 else "odd"), *sides))
    return out


def alone(model: GPT, sample: Sample) -> torch.Tensor:
    ids = torch.from_numpy(sample.ids)
    logps = F.log_softmax(model(ids[None, :-1])[0], 1).gather(1, ids[1:, None])[:, 0]
    return logps[torch.from_numpy(sample.mask[1:])].sum()


def tensors(*pairs) -> list[torch.Tensor]:
    return [torch.tensor(p, dtype=torch.float64).reshape(1, 2, 1) for p in pairs]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, -math.log(1 / (1 + math.exp(-0.1 * 3)))),
        ({"label_smoothing": 0.2}, 0.8 * math.log1p(math.exp(-0.3)) + 0.2 * math.log1p(math.exp(0.3))),
        ({"length_normalised": True}, math.log1p(math.exp(-0.1 * (2 / 4 + 1 / 5)))),
        ({"kind": "hinge", "beta": 0.2}, 1 - 0.2 * 3),
        ({"kind": "ipo"}, (2 / 4 + 1 / 5 - 1 / 0.2) ** 2),
        ({"dpop_lambda": 5.0}, math.log1p(math.exp(-0.3))),  # chosen has become likelier: no penalty
    ],
)
def test_a_loss_by_hand(options, wanted):
    logps, reference, tokens = tensors((-8, -13), (-10, -12), (4, 5))
    assert Objective(**options)(logps, reference, tokens).item() == pytest.approx(wanted)


def test_dpop_punishes_a_chosen_text_that_becomes_unlikely():
    logps, reference, tokens = tensors((-12, -20), (-10, -12), (4, 5))
    loss = Objective(dpop_lambda=5.0)(logps, reference, tokens)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.1 * (6 - 5 * 2))))


def test_packed_equals_alone():
    model, texts = random_model(), random_texts()
    rows = PairRows(texts, 32)
    assert len(rows) < len(texts)
    packed = logps_of(model, rows, 4, CPU)
    for number, text in enumerate(texts):
        for side, sample in enumerate((text.chosen, text.rejected)):
            assert packed[number, side] == pytest.approx(alone(model, sample).item(), rel=1e-5)


@pytest.mark.parametrize("batch_size", [2, 6])
def test_the_step_is_the_mean_over_pairs_and_over_chosen_tokens(batch_size):
    model, start, texts = random_model(1), random_model(0), random_texts()
    rows = PairRows(texts, 32)
    reference = logps_of(start, rows, 4, CPU)
    loss = PreferenceLoss(model, Objective(sft_weight=0.7))
    batch = PairBatches(rows, reference, 2 * len(rows), batch_size, 0, CPU).step(0)
    whole = sum(loss(*micro) for micro in batch.micro_batches) / batch.n_targets
    with torch.no_grad():
        now = torch.tensor([[alone(model, t.chosen), alone(model, t.rejected)] for t in texts])
    margin = (now - torch.from_numpy(reference)) @ torch.tensor([1.0, -1.0])
    tokens = sum(t.chosen.mask.sum() for t in texts)
    wanted = -F.logsigmoid(0.1 * margin).mean() - 0.7 * now[:, 0].sum() / tokens
    assert whole.item() == pytest.approx(wanted.item(), rel=1e-5)
    measured = figures(loss.sums.tolist())
    assert measured["rewards/margins"] == pytest.approx(0.1 * margin.mean().item(), rel=1e-4)
    assert measured["accuracies/raw"] == pytest.approx((now[:, 0] > now[:, 1]).float().mean().item())
    assert measured["ppl/chosen"] == pytest.approx(math.exp(-now[:, 0].sum() / tokens), rel=1e-5)


def test_before_training_the_model_is_its_own_reference():
    texts = random_texts()
    logps = logps_of(random_model(), PairRows(texts, 32), 4, CPU)
    tokens = np.array([[t.chosen.mask.sum(), t.rejected.mask.sum()] for t in texts])
    kinds = [t.pair.kind for t in texts]
    found = held_out(logps, logps, tokens, kinds, 100, Objective(sft_weight=0))
    assert found["val_loss"] == pytest.approx(math.log(2)) and found["rewards/accuracies"] == 0
    assert found["ppl/chosen"] == found["ppl/chosen_start"]
    raw = logps[:, 0] > logps[:, 1]
    assert found["accuracies/raw"] == found["accuracies/raw_start"] == pytest.approx(raw.mean())
    assert found["val_accuracies/raw/even"] == pytest.approx(raw[::2].mean())
    moved = held_out(logps - np.array([1.0, 3.0]), logps, tokens, kinds, 100, Objective(beta=0.5))
    assert moved["rewards/accuracies"] == 1 and moved["rewards/chosen"] == pytest.approx(-0.5)
    assert moved["ppl/chosen"] > moved["ppl/chosen_start"] == found["ppl/chosen_start"]


def test_the_reference_is_found_again_only_for_the_same_pairs_and_weights(tmp_path):
    values = Reference(np.ones((3, 2), np.float32), np.zeros((1, 2), np.float32))
    assert read_reference(tmp_path, "d", "w") is None
    write_reference(tmp_path, values, "d", "w")
    stored = read_reference(tmp_path, "d", "w")
    assert stored and np.array_equal(stored.train, values.train) and np.array_equal(stored.val, values.val)
    assert read_reference(tmp_path, "d", "") and not read_reference(tmp_path, "other", "w")
    assert not read_reference(tmp_path, "d", "other")
    (tmp_path / "reference.safetensors").write_bytes(b"torn")
    assert read_reference(tmp_path, "d", "w") is None
