"""Teach a trained model to answer: supervised fine-tuning on conversations, in train.py's loop.

python finetune_chat.py config/demo_chat.py
python finetune_chat.py config/rizospastis_chat.py --conversations=pairs.jsonl
python finetune_chat.py config/rizospastis_chat.py --init_from=resume
python finetune_chat.py --init_from=out/mine --conversations=pairs.jsonl --out_dir=out/mine-chat --max_epochs=1
"""

import sys
from collections.abc import Sequence

from oracle import cli
from oracle.answering import Answering
from oracle.config import load, without_effect
from oracle.dist import ALONE
from oracle.finetune import inherited
from oracle.plan import plan_in_words
from train import train


def main(argv: Sequence[str]) -> None:
    call = load("finetune_chat.py", argv, inherited)
    for warning in without_effect(call.config, "finetune_chat.py"):
        print(f"warning: {warning}")
    if call.dry_run:
        stage = Answering(call.config, ALONE)
        print(stage.about())
        print(plan_in_words(call.config, stage.tokenizer.vocab_size, stage.epoch_tokens, "counted", stage.script))
    else:
        train(Answering, call.config, argv)


if __name__ == "__main__":
    sys.exit(cli.run(main))
