"""A conversation as the model sees it, in colour: green is learnt, grey is only read.

python -m oracle.show_mask out/demo pairs.jsonl          # the first three conversations
python -m oracle.show_mask out/demo pairs.jsonl 10
"""

import sys
from collections.abc import Sequence
from itertools import groupby

from oracle import cli
from oracle.chat import Rendered, Template
from oracle.cli import UsageError
from oracle.conversations import read_conversations
from oracle.pretrained import Pretrained
from oracle.tokenizer import Tokenizer

LEARNT, READ, PLAIN = "\033[32m", "\033[90m", "\033[0m"


def main(argv: Sequence[str]) -> None:
    if len(argv) not in (2, 3) or not (argv[2:] or ["3"])[0].isdigit():
        raise UsageError("name a run directory, a file of conversations, and how many to show if not 3")
    tokenizer = Pretrained(argv[0]).open_tokenizer()
    template, read = Template(tokenizer), read_conversations(argv[1])
    for c in read.items[: int((argv[2:] or ["3"])[0])]:
        rendered = template.render(c.messages, c.learn)
        print(f"{c.id}: {len(rendered.ids)} tokens, {sum(rendered.mask)} of them learnt")
        print(in_colour(tokenizer, rendered))


def in_colour(tokenizer: Tokenizer, rendered: Rendered) -> str:
    """The tokens' text, control symbols by their names, each run of one kind in its colour."""
    out = []
    for learnt, tokens in groupby(zip(*rendered, strict=True), key=lambda pair: pair[1]):
        out.append(LEARNT if learnt else READ)
        for control, group in groupby((token for token, _ in tokens), key=tokenizer.control.__contains__):
            ids = list(group)
            out.append("".join(map(tokenizer.piece, ids)) if control else tokenizer.decode(ids))
    return "".join(out) + PLAIN


if __name__ == "__main__":
    sys.exit(cli.run(main))
