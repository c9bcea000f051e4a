"""The same weights, pairs and steps through TRL's DPOTrainer: the same losses and figures. Skipped where TRL is absent."""

from copy import deepcopy

import pytest
import torch

from model import GPT
from oracle.dpo import Objective, PreferenceLoss, figures
from oracle.packing import Sample
from oracle.pairs import PairBatches, PairRows, Texts
from oracle.preferences import Pair
from oracle.reference import logps_of
from tests.test_dpo import CPU, SHAPE, random_model, random_texts

STEPS, RATE, END = 4, 1e-3, 3
NAMES = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)


def texts_with_end() -> list[Texts]:
    """Both answers of every pair closed by END, as TRL closes them."""
    import numpy as np

    def closed(sample: Sample) -> Sample:
        return Sample(sample.id, np.append(sample.ids, END), np.append(sample.mask, True))

    return [Texts(Pair(t.pair.id, "", (), "a", "b", "x"), closed(t.chosen), closed(t.rejected)) for t in random_texts()]


def ours(model: GPT, texts: list[Texts], objective: Objective) -> list[dict[str, float]]:
    rows = PairRows(texts, SHAPE.block_size)
    reference = logps_of(model, rows, 4, CPU)
    loss = PreferenceLoss(model, objective)
    micro = PairBatches(rows, reference, 2 * len(rows), 2 * len(rows), 0, CPU).step(0).micro_batches[0]
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    log = []
    for _ in range(STEPS):
        loss.sums.zero_()
        value = loss(*micro) / len(texts)
        log.append({"loss": value.item(), **figures(loss.sums.tolist())})
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return log


def theirs(model: GPT, texts: list[Texts], options: dict, folder) -> list[dict[str, float]]:
    """Ids are words to TRL: a tokenizer that splits at blanks gives them back."""
    trl, datasets, transformers = (pytest.importorskip(n) for n in ("trl", "datasets", "transformers"))
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({f"w{n}.": n for n in range(SHAPE.vocab_size)}, unk_token="w0."))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token=f"w{END}.", pad_token="w1.")

    def row(text: Texts) -> dict[str, str]:
        start = int(text.chosen.mask.argmax())
        said = [" ".join(f"w{n}." for n in part) for part in (text.chosen.ids[:start], text.chosen.ids[start:])]
        return {
            "prompt": said[0], "chosen": " " + said[1],
            "rejected": " " + " ".join(f"w{n}." for n in text.rejected.ids[start:]),
        }  # fmt: skip

    copy = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=SHAPE.vocab_size,
            n_positions=SHAPE.block_size,
            n_layer=SHAPE.n_layer,
            n_head=SHAPE.n_head,
            n_embd=SHAPE.n_embd,
            bos_token_id=2,
            eos_token_id=END,
            pad_token_id=1,
        )
    )
    linear = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    state = {n: (t.T if n.endswith(linear) else t).contiguous() for n, t in model.state_dict().items()}
    copy.transformer.load_state_dict(state, strict=False)
    copy.tie_weights()
    args = trl.DPOConfig(
        output_dir=str(folder), per_device_train_batch_size=len(texts), max_steps=STEPS, learning_rate=RATE,
        lr_scheduler_type="constant", max_grad_norm=0.0, optim="adamw_torch", adam_beta2=0.999, weight_decay=0.0,
        logging_steps=1, report_to=[], use_cpu=True, bf16=False, save_strategy="no", gradient_checkpointing=False,
        max_length=None, disable_tqdm=True, **options,
    )  # fmt: skip
    trainer = trl.DPOTrainer(
        model=copy,
        ref_model=deepcopy(copy),
        args=args,
        processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_list(list(map(row, texts))),
    )
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        (Objective(sft_weight=0), {"loss_type": ["sigmoid"]}),
        (Objective(sft_weight=1), {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]}),
        (Objective("hinge", beta=0.3, sft_weight=0), {"loss_type": ["hinge"], "beta": 0.3}),
        (Objective("ipo", sft_weight=0), {"loss_type": ["ipo"]}),
        (Objective(length_normalised=True, sft_weight=0, beta=2.0), {"loss_type": ["sigmoid_norm"], "beta": 2.0}),
    ],
)
def test_losses_and_figures_are_trls(objective, options, tmp_path):
    texts = texts_with_end()
    expected = theirs(random_model(), texts, options, tmp_path)
    found = ours(random_model(), texts, objective)
    assert len(expected) == STEPS and found[0]["loss"] != found[-1]["loss"]
    for step, (mine, yours) in enumerate(zip(found, expected, strict=True)):
        for name in ("loss", *NAMES):
            print(step, name, mine[name], float(yours[name]))
            assert mine[name] == pytest.approx(float(yours[name]), rel=1e-5, abs=1e-5), (step, name)
