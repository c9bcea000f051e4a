"""Teach a model to prefer the better of two answers: direct preference optimisation, in train.py's loop.

python -m data.preferences.corrupt --corpus=corpus.jsonl --out=pairs.jsonl --language=el
python finetune_dpo.py config/demo_dpo.py
python finetune_dpo.py config/rizospastis_dpo.py --pairs=pairs.jsonl
python finetune_dpo.py config/rizospastis_dpo.py --init_from=resume
"""

import sys
from collections.abc import Sequence

from oracle import cli
from oracle.config import load, without_effect
from oracle.dist import ALONE
from oracle.finetune import inherited
from oracle.plan import plan_in_words
from oracle.preferring import Preferring
from train import train


def main(argv: Sequence[str]) -> None:
    call = load("finetune_dpo.py", argv, inherited)
    for warning in without_effect(call.config, "finetune_dpo.py"):
        print(f"warning: {warning}")
    if call.dry_run:
        stage = Preferring(call.config, ALONE)
        print(stage.about())
        print(plan_in_words(call.config, stage.tokenizer.vocab_size, stage.epoch_tokens, "counted", stage.script))
    else:
        train(Preferring, call.config, argv)


if __name__ == "__main__":
    sys.exit(cli.run(main))
