"""A corpus -> questions and answers about it, as conversations for finetune_chat.py.

python -m data.qa.make_pairs --corpus=corpus.jsonl --out=pairs.jsonl --language=el --base_url=http://localhost:11434/v1 --model=NAME
python -m data.qa.make_pairs --corpus=corpus.jsonl --out=pairs.jsonl --language=el --extractive

The first asks a model on any OpenAI-compatible server (llama.cpp, Ollama, vLLM), with the prompts in
data/qa/prompts_<language>.txt. The second needs no model: it cuts questions and answers out of the articles, and every
row says so ("source": "extractive").
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

from data.qa import extractive
from data.qa.filters import MIN_OVERLAP, Filter, copied
from data.qa.journal import Journal
from data.qa.teacher import FailedError, Teacher
from oracle import cli
from oracle.cli import UsageError, UserError
from oracle.corpus import CorpusReader, Document
from oracle.fetch import Stop, stop_on_signals
from oracle.files import hash_of
from oracle.quality import LANGUAGES

FOLDER = Path(__file__).parent
MAX_ARTICLE_CHARS = 8000  # what is put to the teacher: some 3,000 tokens of Greek
FAILURES_IN_A_ROW = 3  # articles that the server failed before it counts as dead; at least as many as there are workers
PROGRESS_SECONDS = 10.0


class Style(NamedTuple):
    """One way of asking: the messages to the teacher, with {article} and the like still in them."""

    name: str
    system: str
    request: str

    @property
    def hash(self) -> str:
        return hash_of(self.system, self.request)[:12]

    def messages(self, article: Document, n: int) -> list[dict[str, str]]:
        fillings = {
            "n": str(n),
            "title": article.title,
            "date": article.date,
            "article": article.text[:MAX_ARTICLE_CHARS],
        }
        request = re.sub(r"\{(n|title|date|article)\}", lambda match: fillings[match[1]], self.request)
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": request}]


def read_styles(path: Path) -> list[Style]:
    """The sections of a prompt file. Raises UserError for a file that asks for nothing."""
    if not path.is_file():
        raise UserError(f"{path}: no such prompt file; copy {FOLDER / 'prompts_en.txt'} and put it into your language")
    sections: dict[str, list[str]] = {}
    name = ""
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        if line.startswith("==="):
            name = line.strip("= ")
            sections[name] = []
        elif name:
            sections[name].append(line)
    texts = {name: "\n".join(lines).strip() for name, lines in sections.items()}
    system = texts.pop("system", "")
    if not texts or any("{article}" not in text for text in texts.values()):
        raise UserError(
            f"{path}: write sections such as '=== facts', each with {{article}} where the article is to stand"
        )
    return [Style(name, system, text) for name, text in texts.items()]


class Task(NamedTuple):
    article: Document
    style: Style

    def key(self, model: str) -> str:
        return f"{self.article.id}|{self.style.name}|{self.style.hash}|{model}"


def tasks_of(corpus: CorpusReader, styles: Sequence[Style], each: int, limit: int) -> Iterator[Task]:
    """Every article with `each` of the styles: which ones goes round from article to article."""
    for number, article in enumerate(corpus):
        if limit and number == limit:
            return
        for turn in range(min(each, len(styles))):
            yield Task(article, styles[(number + turn) % len(styles)])


class Maker:
    """Asks in several threads; filters and writes in this one, article by article."""

    def __init__(
        self, teacher: Teacher, journal: Journal, chosen: Filter, n: int, workers: int, prices: tuple[float, float]
    ) -> None:
        self.teacher, self.journal, self.filter, self.n, self.workers = teacher, journal, chosen, n, workers
        self.prices = prices  # per million tokens in and out
        self.pairs = self.articles = self.rubbish = self._in_a_row = 0
        self.copied = 0.0
        self._began = self._told = time.monotonic()

    def run(self, tasks: Iterator[Task], stop: Stop) -> None:
        """Work through the tasks that the journal does not have. Raises UserError when the server is no use any more."""
        waiting: dict[Future[list[tuple[str, str]]], Task] = {}
        left = (task for task in tasks if task.key(self.teacher.model) not in self.journal.done)
        pool = ThreadPoolExecutor(self.workers)
        try:
            while not stop.asked:
                while not stop.asked and len(waiting) < 2 * self.workers and (task := next(left, None)):
                    waiting[pool.submit(self.teacher.pairs, task.style.messages(task.article, self.n))] = task
                if not waiting:
                    break
                self._collect(waiting)
            for future in [future for future in waiting if future.cancel()]:
                del waiting[future]
            while waiting:  # asked to stop: what is underway is still paid for
                self._collect(waiting)
        finally:
            self.teacher.close()
            pool.shutdown(wait=False, cancel_futures=True)

    def _collect(self, waiting: dict[Future[list[tuple[str, str]]], Task]) -> None:
        finished, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
        for future in finished:
            self._take(waiting.pop(future), future)
        if time.monotonic() - self._told > PROGRESS_SECONDS:
            self._told = time.monotonic()
            print(self.progress(), flush=True)

    def _take(self, task: Task, future: Future[list[tuple[str, str]]]) -> None:
        try:
            found = future.result()
        except FailedError as problem:
            self.rubbish += 1
            self._in_a_row = self._in_a_row + 1 if problem.server else 0
            if self._in_a_row >= max(FAILURES_IN_A_ROW, self.workers):
                raise UserError(
                    f"the server failed {self._in_a_row} articles in a row ({problem}); all {len(self.journal.done):,} finished ones are"
                    " kept: see to the server and run the same command again"
                ) from None
            return
        self._in_a_row = 0
        self.articles += 1
        about = f"{task.article.title}\n{task.article.text}\n{task.article.date}"
        rows: list[dict[str, Any]] = []
        for question, answer in found:
            if self.filter.admits(question, answer, about, task.article.id):
                self.copied += copied(answer, task.article.text)
                rows.append(self._row(task, question, answer, len(rows)))
        self.pairs += len(rows)
        self.journal.add(task.key(self.teacher.model), rows)

    def _row(self, task: Task, question: str, answer: str, number: int) -> dict[str, Any]:
        return {
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
            "id": f"{task.article.id}/{task.style.name}/{number}",
            "source": f"model:{self.teacher.model}",
            "article": task.article.id,
            "prompt": task.style.hash,
        }

    def progress(self) -> str:
        """One line: what there is, how fast, what it cost."""
        seconds = max(1e-9, time.monotonic() - self._began)
        t = self.teacher
        cost = (t.tokens_in * self.prices[0] + t.tokens_out * self.prices[1]) / 1e6
        shown = f", {cost:.2f} spent" if any(self.prices) else ""
        return (
            f"{self.articles:,} articles, {self.pairs:,} pairs, {60 * self.articles / seconds:.1f} articles/min,"
            f" {t.tokens_in:,} + {t.tokens_out:,} tokens{shown}"
        )

    def summary(self) -> str:
        """The end of the story: what was kept, and why the rest was not."""
        lines = [
            self.progress(),
            f"{len(self.journal.done):,} articles done in all; {self.rubbish:,} failed now and will be asked again next time",
        ]
        if self.pairs:
            lines.append(f"{self.copied / self.pairs:.0%} of the answers' runs of four words stand in their article")
        if self.filter.refused:
            lines.append(
                "refused: " + ", ".join(f"{why} {count:,}" for why, count in self.filter.refused.most_common())
            )
        return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """Parse the command line and make pairs."""
    args = _parser().parse_args(argv)
    if args.out.suffix != ".jsonl" or args.out.resolve() == args.corpus.resolve():
        raise UsageError(f"--out={args.out} must be a .jsonl file, and another one than the corpus")
    corpus = CorpusReader(args.corpus, keep_titles=False)
    corpus.files()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.extractive:
        print(
            extractive.write(corpus, args.out, args.language, args.seed, args.per_article, args.most_share, args.limit)
        )
        return
    if not args.base_url or not args.model:
        raise UsageError(
            "give --base_url (such as http://localhost:11434/v1) and --model, or --extractive to do without a model"
        )
    if (
        min(args.workers, args.styles, args.n) < 1
        or args.limit < 0
        or min(args.price_in, args.price_out, args.min_overlap) < 0
    ):
        raise UsageError("workers, styles and n must be at least 1; limit, prices and min_overlap at least 0")
    key = os.environ.get(args.key_env, "") if args.key_env else ""
    if args.key_env and not key:
        raise UsageError(f"--key_env={args.key_env}: no such environment variable; set it to the server's key")
    styles = read_styles(args.prompts or FOLDER / f"prompts_{args.language}.txt")
    teacher = Teacher(args.base_url, args.model, key, args.timeout, args.temperature, args.max_tokens)
    chosen = Filter(args.language, args.min_overlap)
    with Journal(args.out) as journal, stop_on_signals() as stop:
        for row in journal.rows():
            chosen.remember(row["messages"][0]["content"], row["article"])
        maker = Maker(teacher, journal, chosen, args.n, args.workers, (args.price_in, args.price_out))
        try:
            maker.run(tasks_of(corpus, styles, args.styles, args.limit), stop)
        finally:
            print(f"{args.out}: {maker.summary()}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--corpus", type=Path, required=True, help="what prepare.py reads: .jsonl, or a folder of .txt")
    add("--out", type=Path, required=True, help="file of conversations, .jsonl; with a model it is gone on with")
    add("--language", required=True, choices=sorted(LANGUAGES))
    add("--limit", type=int, default=0, help="articles, from the beginning; 0: all (default)")
    add("--seed", type=int, default=1337)
    add("--extractive", action="store_true", help="no model: questions and answers cut out of the articles")
    add("--per_article", type=int, default=12, help="extractive: pairs of an article, at most (default %(default)s)")
    add(
        "--most_share",
        type=float,
        default=0.2,
        help="extractive: share of one kind of question, at most (default %(default)s)",
    )
    add("--base_url", default="", help="of the server, up to and with /v1")
    add("--model", default="", help="the server's name for the model")
    add("--key_env", default="", help="environment variable that holds the server's key")
    add("--prompts", type=Path, help="prompt file (default data/qa/prompts_<language>.txt)")
    add(
        "--styles",
        type=int,
        default=1,
        help="styles of question that an article is asked about in (default %(default)s)",
    )
    add("--n", type=int, default=4, help="pairs to ask for in one request (default %(default)s)")
    add("--workers", type=int, default=4, help="requests at once (default %(default)s)")
    add(
        "--min_overlap",
        type=float,
        default=MIN_OVERLAP,
        help="share of an answer's words from the article (default %(default)s)",
    )
    add("--timeout", type=float, default=180.0, help="seconds that the server may be silent (default %(default)s)")
    add("--temperature", type=float, default=0.7)
    add("--max_tokens", type=int, default=1500, help="of one answer (default %(default)s)")
    add("--price_in", type=float, default=0.0, help="of a million tokens sent")
    add("--price_out", type=float, default=0.0, help="of a million tokens received")
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
