"""The same weights and conversations through TRL's SFTTrainer, by way of our export: the same losses and gradients.

TRL gets a folder and messages as its users have them, and renders and masks with the exported template; ours are packed.
Skipped where TRL is absent.
"""

import json
from dataclasses import replace

import pytest
import torch

import export
from model import GPT
from oracle.answering import Answering
from oracle.dist import ALONE
from oracle.plan import make_plan
from oracle.settings import Config
from oracle.stage import Place
from tests.conftest import WORDS
from tests.test_export import make_run

STEPS, RATE, PAIRS = 3, 1e-3, 12
CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def conversations() -> list[dict]:
    """Of different lengths, some with two answers, one with a system message."""
    found = []
    for n in range(PAIRS):
        turns = [("user", " ".join(WORDS[n : n + 3]) + ";"), ("assistant", " ".join(WORDS[-n - 1 :][: n % 4 + 1]))]
        turns += [("user", WORDS[n]), ("assistant", "😀 " + WORDS[n + 5])] if n % 3 == 0 else []
        turns = [("system", "Απάντησε σύντομα."), *turns] if n == 7 else turns
        found.append({"messages": [{"role": role, "content": content} for role, content in turns]})
    return found


def ours(run, pairs) -> tuple[list[float], list[dict[str, torch.Tensor]]]:
    """Losses and gradients of each step, all of the conversations in it, in two micro-batches, as `train.fit` adds up."""
    config = Config(
        init_from=str(run), conversations=str(pairs), val_conversations=str(pairs), data_dir="nowhere", n_layer=2,
        n_head=2, n_embd=32, block_size=64, batch_size=1, max_iters=STEPS, warmup_iters=0,
    )  # fmt: skip
    stage = Answering(config, ALONE)
    assert len(stage.train.samples) == PAIRS and len(stage.rows) < PAIRS
    config = replace(config, total_batch_size=len(stage.rows) * config.block_size)
    plan = make_plan(config, stage.tokenizer.vocab_size, stage.epoch_tokens)
    model = GPT(plan.model)
    stage.weights(model)
    batches = stage.batches(plan, 2, Place(torch.device("cpu"), torch.float32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    losses, gradients = [], []
    for step in range(STEPS):
        batch = batches.step(step)
        assert len(batch.micro_batches) > 1
        total = torch.zeros(())
        for micro in batch.micro_batches:
            part = model(*micro, reduction="sum") / batch.n_targets
            part.backward()
            total += part.detach()
        losses.append(float(total))
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        optimizer.step()
        optimizer.zero_grad()
    return losses, gradients


def theirs(folder, output) -> tuple[list[float], list[dict[str, torch.Tensor]]]:
    trl, datasets, transformers = (pytest.importorskip(n) for n in ("trl", "datasets", "transformers"))
    from transformers import TrainerCallback

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.split_special_tokens = False
    gradients = []

    class Gradients(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model, **_):
            found = {n.removeprefix("transformer."): p.grad for n, p in model.named_parameters() if p.grad is not None}
            gradients.append({n: (g.T if n.endswith(CONV1D) else g).clone() for n, g in found.items()})

    args = trl.SFTConfig(
        output_dir=str(output), per_device_train_batch_size=PAIRS // 2, gradient_accumulation_steps=2, max_steps=STEPS,
        learning_rate=RATE, lr_scheduler_type="constant", max_grad_norm=0.0, optim="adamw_torch", weight_decay=0.0,
        assistant_only_loss=True, logging_steps=1, report_to=[], use_cpu=True, bf16=False, save_strategy="no",
        gradient_checkpointing=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        model=transformers.GPT2LMHeadModel.from_pretrained(
            folder, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, dtype=torch.float32
        ),
        args=args, processing_class=tokenizer, train_dataset=datasets.Dataset.from_list(conversations()),
        callbacks=[Gradients()],
    )  # fmt: skip
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], gradients


def test_losses_and_gradients_are_trls(tmp_path, prepared):
    pytest.importorskip("trl")
    run = make_run(tmp_path / "demo-chat", prepared.tokenizer_path, chat=True)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(c, ensure_ascii=False) + "\n" for c in conversations()), encoding="utf-8")
    export.main([str(run)])
    expected, their_gradients = theirs(run / "export" / "hf", tmp_path / "trl")
    found, our_gradients = ours(run, pairs)
    assert len(expected) == len(their_gradients) == STEPS and found[0] != found[-1]
    for step in range(STEPS):
        assert found[step] == pytest.approx(float(expected[step]), rel=1e-5)
        worst = max((our_gradients[step][n] - g).abs().max().item() for n, g in their_gradients[step].items())
        assert their_gradients[step].keys() == our_gradients[step].keys() and worst < 1e-6
