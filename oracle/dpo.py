"""Direct preference optimisation (Rafailov et al. 2023): the loss of pairs, and what one wants to know of them.

With r = log p(answer | prompt) - log p_start(answer | prompt) and m = r(chosen) - r(rejected):

    sigmoid   -log sigmoid(beta m)                               label_smoothing: (1 - e) of that + e of that of -m (cDPO)
    hinge     max(0, 1 - beta m)                                 SLiC, Zhao et al. 2023
    ipo       (m - 1 / (2 beta))^2, r per token                  Azar et al. 2023

A chosen text against its own spoilt copy is where DPO fails: the margin grows while both texts become unlikely. Hence
`sft_weight`, the chosen answers' own cross-entropy (Pang et al. 2024), and `dpop_lambda`, which subtracts
lambda max(0, -r(chosen)) from m (DPO-Positive, Pal et al. 2024).

Shapes: B rows of pairs, 2 sides (chosen, rejected), T tokens, S pairs in a row at most.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from model import GPT, IGNORE
from oracle.settings import Config


@dataclass(frozen=True)
class Objective:
    """Which loss; the fields are the settings of these names."""

    kind: str = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    length_normalised: bool = False
    sft_weight: float = 1.0
    dpop_lambda: float = 0.0

    @classmethod
    def of(cls, c: Config) -> "Objective":
        return cls(c.dpo_loss, c.beta, c.label_smoothing, c.length_normalised, c.sft_weight, c.dpop_lambda)

    def __call__(self, logps: torch.Tensor, reference: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Loss of each pair (B, S) without the chosen answers' own, from summed log-probabilities, those of the starting
        model, and numbers of tokens, all (B, 2, S)."""
        ratios = logps - reference
        if self.length_normalised or self.kind == "ipo":
            ratios = ratios / tokens.clamp(min=1)
        margin = ratios[:, 0] - ratios[:, 1] - self.dpop_lambda * F.relu(-ratios[:, 0])
        if self.kind == "ipo":
            return (margin - 1 / (2 * self.beta)) ** 2
        if self.kind == "hinge":
            return F.relu(1 - self.beta * margin)
        right, wrong = -F.logsigmoid(self.beta * margin), -F.logsigmoid(-self.beta * margin)
        return (1 - self.label_smoothing) * right + self.label_smoothing * wrong


def pair_logps(
    model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, places: torch.Tensor, most: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed log-probabilities of the answers in each row, and their tokens: both (B, 2, most), 0 where there is none.

    `x`, `y`, `places` (B, 2, T); an answer's text is found by its number in the row, where a place 0 begins a text.
    """
    nats = model(x.flatten(0, 1), y.flatten(0, 1), places.flatten(0, 1), reduction="none").view(y.shape)
    number = (places == 0).cumsum(-1) - 1  # of the text in its row; padding has higher ones and no targets
    here = (number[..., None] == torch.arange(most, device=x.device)).float()  # B, 2, T, most
    # A product and a sum, not an indexed addition: on a GPU that would add up in another order each time.
    return -(here * nats[..., None]).sum(2), (here * (y != IGNORE)[..., None]).sum(2)


# What `measure` adds up, in order.
SUMS = (
    "pairs", "tokens/chosen", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "logps/chosen",
    "logps/rejected", "accuracies/raw", "loss",
)  # fmt: skip


def measure(
    logps: torch.Tensor, reference: torch.Tensor, tokens: torch.Tensor, losses: torch.Tensor, beta: float
) -> torch.Tensor:
    """The sums over the pairs of what SUMS names; shapes as in `Objective`, `losses` (B, S)."""
    there = (tokens[:, 0] > 0).float()  # B, S
    rewards = beta * (logps - reference)
    values = (
        torch.ones_like(there), tokens[:, 0], rewards[:, 0], rewards[:, 1], (rewards[:, 0] > rewards[:, 1]).float(),
        logps[:, 0], logps[:, 1], (logps[:, 0] > logps[:, 1]).float(), losses,
    )  # fmt: skip
    return torch.stack([(value * there).sum() for value in values])


def figures(sums: list[float]) -> dict[str, float]:
    """Means under their usual names from the sums that SUMS names; nothing if there was no pair."""
    named = dict(zip(SUMS, sums, strict=True))
    pairs = named.pop("pairs")
    if not pairs:
        return {}
    tokens = named.pop("tokens/chosen")
    per_token = named["logps/chosen"] / tokens
    means = {name: value / pairs for name, value in named.items() if name != "loss"}
    return {
        **means,
        "rewards/margins": means["rewards/chosen"] - means["rewards/rejected"],
        "logps/chosen_per_token": per_token,
        "ppl/chosen": perplexity(per_token),
    }


def perplexity(logp_per_token: float) -> float:
    return float(torch.tensor(-logp_per_token, dtype=torch.float64).clamp(max=50).exp())


class PreferenceLoss(torch.nn.Module):
    """The summed loss of the pairs in a micro-batch; adds up in `sums` what SUMS names."""

    def __init__(self, model: GPT, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective
        self.sums = torch.zeros(len(SUMS), device=next(model.parameters()).device)

    def forward(
        self, x: torch.Tensor, y: torch.Tensor, places: torch.Tensor, reference: torch.Tensor, share: torch.Tensor,
        *, reduction: str = "sum",
    ) -> torch.Tensor:  # fmt: skip
        """Sum over the pairs (scalar). `share` is the pairs of the whole step for each of its chosen tokens: divided by
        the step's pairs, the chosen answers' own loss is then a mean over its tokens."""
        assert reduction == "sum"
        logps, tokens = pair_logps(self.model, x, y, places, reference.shape[2])
        losses = self.objective(logps, reference, tokens) * (tokens[:, 0] > 0)
        self.sums += measure(logps.detach(), reference, tokens, losses.detach(), self.objective.beta)
        return losses.sum() - self.objective.sft_weight * share * logps[:, 0].sum()
