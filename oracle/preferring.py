"""The third stage: to prefer the better of two answers."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from model import GPT
from oracle.chat import JINJA, Template
from oracle.checkpoint import CHAT_TEMPLATE
from oracle.cli import UsageError, UserError
from oracle.conversations import split
from oracle.diary import write_samples
from oracle.dist import World
from oracle.dpo import Objective, PreferenceLoss, figures, measure
from oracle.files import hash_of
from oracle.finetune import source_of
from oracle.loader import Batches
from oracle.logbook import Logbook
from oracle.packing import Sample
from oracle.pairs import PairBatches, PairRows, fit
from oracle.plan import Plan
from oracle.preferences import check_apart, read_pairs
from oracle.reference import FILE, Reference, logps_of, missing, read_reference, write_reference
from oracle.settings import Config
from oracle.stage import Place


class Preferring:
    """See `oracle.stage.Stage`."""

    script, samples_with_evaluations, saves_start = "finetune_dpo.py", True, True

    def __init__(self, config: Config, world: World) -> None:
        self.config, self.world, self.source = config, world, source_of(config)
        self.tokenizer = self.source.open_tokenizer()
        self.template = Template(self.tokenizer)
        self._read()
        data = hash_of(
            self.read.sha256, self.val_sha256, config.chat_val_fraction, config.long_conversations, config.on_bad_line,
            config.block_size, JINJA,
        )  # fmt: skip
        self.identity = {"data": data, "tokenizer": self.tokenizer.sha256}
        self.rows, self.val_rows = (PairRows(side.texts, config.block_size) for side in (self.train, self.val))
        self.epoch_tokens = 2 * len(self.rows) * config.block_size
        self.baselines: dict[str, float] = {}
        self.files = {CHAT_TEMPLATE: JINJA}

    def _read(self) -> None:
        """The pairs, split and as tokens. Raises UserError if nothing is left to learn or to measure."""
        c = self.config
        if not c.pairs:
            raise UserError("no pairs given: set pairs to a .jsonl file, such as data.preferences.corrupt makes")
        self.read = read_pairs(c.pairs, c.on_bad_line == "skip")
        self.val_sha256 = ""
        if c.val_pairs:
            held_out = read_pairs(c.val_pairs, c.on_bad_line == "skip")
            self.val_sha256 = held_out.sha256
            check_apart(self.read.items, held_out.items, c.val_pairs)
            sides = self.read.items, held_out.items
        else:
            sides = split(self.read.items, c.chat_val_fraction)
        cut = c.long_conversations == "cut"
        self.train, self.val = (fit(side, self.template, c.block_size, cut) for side in sides)
        for name, fitted in (("train on", self.train), ("measure with", self.val)):
            if not fitted.texts:
                raise UserError(
                    f"{c.pairs}: no pair to {name} ({fitted}): the context is {c.block_size} tokens; give shorter or more"
                    " pairs, or --long_conversations=cut"
                )

    def weights(self, model: GPT) -> None:
        self.source.load(model)

    def loss(self, model: GPT) -> PreferenceLoss:
        self.objective = PreferenceLoss(model, Objective.of(self.config))
        return self.objective

    def batches(self, plan: Plan, batch_size: int, place: Place) -> Batches:
        if batch_size % 2 or plan.sequences_per_step % (2 * place.world.size):
            raise UsageError(
                f"batch_size={batch_size} in steps of {plan.sequences_per_step} sequences: a row of chosen answers and"
                " its row of rejected ones go together, so give even numbers for every rank"
            )
        self.reference = self._reference(plan, batch_size, place)
        return PairBatches(
            self.rows, self.reference.train, plan.sequences_per_step, batch_size, self.config.seed, place
        )

    def _reference(self, plan: Plan, batch_size: int, place: Place) -> Reference:
        """What the model this run started from thinks of the pairs: stored, or computed now and stored."""
        run, data = Path(self.config.out_dir), self.identity["data"]
        if self.config.init_from == "resume":
            stored = read_reference(run, data, "")
            if stored is None:
                raise missing(run)
            return stored
        start = GPT(plan.model)
        self.source.load(start)
        base = _hash_of_weights(start)
        stored = read_reference(run, data, base)
        if stored is None:
            pairs = len(self.train.texts) + len(self.val.texts)
            print(f"reading {pairs:,} pairs once with the starting model, for {run / FILE}", flush=True)
            start.to(place.device)
            stored = Reference(*(logps_of(start, rows, batch_size, place) for rows in (self.rows, self.val_rows)))
            if place.world.main:
                write_reference(run, stored, data, base)
        return stored

    def evaluator(
        self, model: GPT, loss: torch.nn.Module, batch_size: int, place: Place
    ) -> Callable[[], dict[str, float]]:
        self.objective.sums.zero_()  # a compiler's trial is no step
        tokens = np.array([[t.chosen.mask[1:].sum(), t.rejected.mask[1:].sum()] for t in self.val.texts])
        kinds = [t.pair.kind for t in self.val.texts]
        n_bytes = sum(self._bytes(t.chosen) for t in self.val.texts)

        def measured() -> dict[str, float]:
            logps = logps_of(model, self.val_rows, batch_size, place)
            return held_out(logps, self.reference.val, tokens, kinds, n_bytes, self.objective.objective)

        return measured

    def _bytes(self, sample: Sample) -> int:
        return sum(len(self.tokenizer.piece_bytes[token]) for token in sample.ids[sample.mask].tolist())

    def sample(self, model: GPT, place: Place, logbook: Logbook, step: int) -> None:
        prompts = [self.template.prompt([{"role": "user", "content": q}]) for q in self.config.sample_prompts]
        write_samples(model, self.tokenizer, prompts, self.config, place, logbook, step, self.template.stop_tokens)

    def measures(self) -> dict[str, float]:
        sums = [self.world.total(value) for value in self.objective.sums.tolist()]
        self.objective.sums.zero_()
        return figures(sums)

    def verdict(self, found: dict[str, float]) -> str:
        limit = found["ppl/chosen_start"] * (1 + self.config.max_ppl_rise)
        if found["ppl/chosen"] <= limit:
            return ""
        return (
            f"ppl/chosen {found['ppl/chosen']:.2f} is above {limit:.2f}, {self.config.max_ppl_rise:.0%} more than before"
            " training: the model is unlearning the good answers too; a larger sft_weight, a smaller learning_rate or a"
            " dpop_lambda holds it back, a larger max_ppl_rise lets it go on"
        )

    def about(self) -> str:
        filled = sum(len(t.chosen.ids) - 1 for t in self.train.texts) / (len(self.rows) * self.config.block_size)
        return (
            f"{self.read}\nto train on: {self.train}, in {len(self.rows):,} rows and as many of the rejected, {filled:.1%}"
            f" full; held out: {self.val}"
        )

    def following(self, run: Path) -> str:
        return f"python sample.py {run} --chat"


def held_out(
    logps: np.ndarray, reference: np.ndarray, tokens: np.ndarray, kinds: list[str], n_bytes: int, objective: Objective
) -> dict[str, float]:
    """Figures of held-out pairs from (pairs, 2) log-probabilities now, at the start, and numbers of tokens.

    "val_loss" is the loss that is trained. By kind of error there is the share of pairs whose chosen text is the likelier
    one: "val_accuracies/raw/<kind>".
    """
    now, before, counts = (torch.from_numpy(a.T.astype(np.float64))[None] for a in (logps, reference, tokens))
    losses = objective(now, before, counts)
    found = figures(measure(now, before, counts, losses, objective.beta).tolist())
    start = figures(measure(before, before, counts, losses, objective.beta).tolist())
    nats = -float(now[:, 0].sum())
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for kind, right in zip(kinds, (logps[:, 0] > logps[:, 1]).tolist(), strict=True):
        by_kind[kind].append(right)
    return {
        "val_loss": float(losses.mean()) - objective.sft_weight * found["logps/chosen_per_token"],
        "val_bpb": nats / math.log(2) / max(1, n_bytes),
        "val_perplexity": found["ppl/chosen"],
        **found,
        "accuracies/raw_start": start["accuracies/raw"],
        "ppl/chosen_start": start["ppl/chosen"],
        **{f"val_accuracies/raw/{kind}": sum(right) / len(right) for kind, right in sorted(by_kind.items())},
    }


def _hash_of_weights(model: GPT) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
