"""Ask models about the weekly in words they were not taught, and count the answers that have the fact.

python -m data.demo.ask out/demo out/demo-chat
"""

import sys
from collections.abc import Sequence

from data.demo.chat_data import HERE
from oracle import cli
from oracle.generate import Engine, open_engine
from oracle.quiz import Answer, mark, read_questions, wordings
from oracle.sampling import SamplingParams

AT_ONCE = 8
HELD_OUT = 3  # the paraphrase that chat_data.py teaches nobody
SHOWN = 10


def main(argv: Sequence[str]) -> None:
    if not argv:
        raise cli.UsageError("name the run directories to ask, such as out/demo out/demo-chat")
    questions = read_questions(HERE / "questions.jsonl")
    for run in argv:
        engine = open_engine(run, slots=AT_ONCE)
        transcript = mark(questions, answers(engine, wordings(questions))).transcript
        asked = [answer for answer in transcript if answer.paraphrase == HELD_OUT]
        taught = [answer for answer in transcript if answer.paraphrase < HELD_OUT]
        print(f"{engine.name}: {right(asked)} of {len(asked)} held-out phrasings answered with the fact", end="")
        print(f" ({right(taught)} of {len(taught)} of the wordings that were taught)" if engine.template else "")
        for answer in asked[:SHOWN]:
            print(f"  {'right' if answer.right else 'wrong'}  {answer.question}\n         {answer.answer[:150]}")


def answers(engine: Engine, asked: Sequence[str]) -> list[str]:
    """The likeliest answer to each; a base model gets the question as the beginning of a text."""
    template, tokenizer = engine.template, engine.tokenizer
    prompts = [
        template.prompt([{"role": "user", "content": question}])
        if template
        else [tokenizer.bos, *tokenizer.encode(f"{question}\n")]
        for question in asked
    ]
    params = SamplingParams(max_new_tokens=80, temperature=0, stop_tokens=template.stop_tokens if template else ())
    done = engine.complete([prompt[-engine.block_size :] for prompt in prompts], params)
    return [request.text for request in done]


def right(transcript: Sequence[Answer]) -> int:
    return sum(answer.right for answer in transcript)


if __name__ == "__main__":
    sys.exit(cli.run(main))
