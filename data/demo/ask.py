"""Ask models about the weekly in words they were not taught, and count the answers that have the fact.

python -m data.demo.ask out/demo out/demo-chat
"""

import sys
from collections.abc import Sequence

from data.demo.chat_data import HERE
from oracle import cli
from oracle.generate import Engine, open_engine
from oracle.quiz import Question, contains, read_questions
from oracle.sampling import SamplingParams

AT_ONCE = 8
HELD_OUT = 2  # the paraphrase that chat_data.py teaches nobody, counted from 0
SHOWN = 10


def main(argv: Sequence[str]) -> None:
    if not argv:
        raise cli.UsageError("name the run directories to ask, such as out/demo out/demo-chat")
    questions = read_questions(HERE / "questions.jsonl")
    for run in argv:
        engine = open_engine(run, slots=AT_ONCE)
        asked = [q.paraphrases[HELD_OUT] for q in questions]
        said = answers(engine, asked)
        print(
            f"{engine.name}: {right(questions, said)} of {len(said)} held-out phrasings answered with the fact", end=""
        )
        print(f" ({taught(engine, questions)} of the wordings that were taught)" if engine.template else "")
        for question, wording, answer in list(zip(questions, asked, said, strict=True))[:SHOWN]:
            mark = "right" if contains(answer, question.fact) else "wrong"
            print(f"  {mark}  {wording}\n         {answer[:150]}")


def taught(engine: Engine, questions: Sequence[Question]) -> str:
    """How many of the first wordings of the questions, all of them taught, are answered with the fact."""
    first = [(q, text) for q in questions for text in (q.question, *q.paraphrases[:HELD_OUT])]
    said = answers(engine, [text for _, text in first])
    return f"{right([q for q, _ in first], said)} of {len(first)}"


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


def right(questions: Sequence[Question], said: Sequence[str]) -> int:
    return sum(contains(answer, q.fact) for q, answer in zip(questions, said, strict=True))


if __name__ == "__main__":
    sys.exit(cli.run(main))
