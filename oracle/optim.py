"""Parameter groups, optimizer and learning-rate schedule."""

import math

import torch
import torch.nn as nn

from oracle.settings import Config


def make_optimizer(model: nn.Module, config: Config) -> torch.optim.AdamW:
    """AdamW with decay on matrices and embeddings only: biases and layer norms have no scale to keep small.

    Fused wherever PyTorch has the kernel (CPU, CUDA, MPS); one kernel then updates every tensor.
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def learning_rate(step: int, config: Config, max_iters: int) -> float:
    """The rate of optimizer step `step` (0-based) out of `max_iters`.

    Linear warm-up that starts above zero, then the schedule down to `min_lr`, which holds from
    `lr_decay_iters` (by default the last step) on.
    """
    if step < config.warmup_iters:
        return config.learning_rate * (step + 1) / config.warmup_iters
    if config.lr_schedule == "constant":
        return config.learning_rate
    end = config.lr_decay_iters or max_iters
    progress = min(1.0, (step - config.warmup_iters) / max(1, end - 1 - config.warmup_iters))
    left = 1 - progress if config.lr_schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.min_lr + left * (config.learning_rate - config.min_lr)
