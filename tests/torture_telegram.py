"""A bot that is killed again and again, on a network where a third of all calls fail. Run by hand.

    python -m tests.torture_telegram --messages 300 --faults 0.3 --kills 10

Every message must be answered exactly once. What may happen besides, and is counted: an empty message ("…") that stays
in a chat, when the answer to sending it was lost or the bot was killed before it could note it.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.fake_telegram import FAULTS, TOKEN, FakeModels, FakeTelegram, wait_until
from tests.runs import ROOT

MARK = "ερώτηση"
AT_ONCE = 16  # calls under way when the bot is killed, at most: its connections


@dataclass
class Result:
    answers: list[int]  # of each message
    strays: int  # messages of the bot's that hold no answer
    lost_sends: int  # calls that sent a message and whose answer was lost
    kills: int
    faults: int
    calls: int
    seconds: float
    output: str

    @property
    def excused(self) -> int:
        """Empty messages that may be left."""
        return self.lost_sends + AT_ONCE * self.kills


# The script as it is, but every logger of every library says all it has to say, whatever level it was set to.
TALKATIVE = """
import logging, runpy, sys
logging.Logger.isEnabledFor = lambda self, level: True
sys.argv[0] = "telegram_bot.py"
runpy.run_path("telegram_bot.py", run_name="__main__")
"""


class Process:
    """telegram_bot.py in a process of its own; `debug`: with all loggers at DEBUG, Python's and asyncio's own too."""

    def __init__(self, folder: Path, fake: FakeTelegram, models: FakeModels, debug: bool = False) -> None:
        self.log = folder / "log.txt"
        script = ["-X", "dev", "-c", TALKATIVE] if debug else ["telegram_bot.py"]
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                [
                    sys.executable, *script, f"--api_url={models.address}", f"--bot_api={fake.address}",
                    f"--state_file={folder / 'bot.sqlite'}", "--poll_seconds=1", "--call_seconds=1", "--slots=8",
                    "--max_waiting=10000", "--max_waiting_per_chat=1000", "--messages_per_minute=100000",
                    "--tokens_per_minute=1000000", "--grace_seconds=3",
                ],
                cwd=ROOT, env={**os.environ, "TELEGRAM_BOT_TOKEN": TOKEN}, stdout=log, stderr=log,
            )  # fmt: skip

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        self.running.kill()
        self.running.wait()

    def stop(self) -> int:
        """The exit status after SIGTERM."""
        self.running.terminate()
        return self.running.wait(timeout=15)

    def command_line(self) -> bytes:
        return Path(f"/proc/{self.running.pid}/cmdline").read_bytes()


def torture(
    folder: Path, messages: int, chats: int, faults: float, kills: int, seed: int, patience: float, debug: bool = False
) -> Result:
    """Say `messages` in `chats`, kill the bot `kills` times meanwhile, and count what came of it."""
    rng = random.Random(seed)

    def draw(method: str, count: int) -> str:
        kinds = (*FAULTS, "409") if method == "getUpdates" else FAULTS
        return rng.choice(kinds) if rng.random() < faults else ""

    said: list[tuple[int, str]] = []
    start = time.monotonic()
    with FakeTelegram(draw=draw, hang_seconds=1.5) as fake, FakeModels(word_seconds=0.1) as models:
        bot = Process(folder, fake, models, debug)
        for part in range(kills + 1):
            for n in range(part, messages, kills + 1):
                chat = 1 + n % chats
                said.append((chat, f"{MARK} {n}:"))
                fake.say(chat, f"{said[-1][1]} τι;")
            if part < kills:
                # Kill it in the midst of work: once some calls have been made since the start.
                sent = fake.count("sendMessage") + rng.randrange(1, max(2, messages // (kills + 1)))
                wait_until(partial(_has_sent, fake, sent), 15)
                time.sleep(rng.random())
                assert TOKEN.encode() not in bot.command_line()
                bot.kill()
                bot = Process(folder, fake, models, debug)
        wait_until(lambda: all(fake.holding(chat, text) for chat, text in said), patience)
        time.sleep(1.0)  # for whatever should not come
        assert bot.stop() == 0
        lost = sum(method == "sendMessage" and fault == "lost" for _, method, _, fault in fake.calls)
        strays = sum(MARK not in text for chat in fake.chats for text in fake.texts(chat))
        return Result(
            [fake.holding(chat, text) for chat, text in said], strays, lost, kills,
            sum(bool(fault) for *_, fault in fake.calls), len(fake.calls), time.monotonic() - start, bot.log.read_text(),
        )  # fmt: skip


def _has_sent(fake: FakeTelegram, count: int) -> bool:
    return fake.count("sendMessage") >= count


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=300)
    parser.add_argument("--chats", type=int, default=60)
    parser.add_argument("--faults", type=float, default=0.3)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--debug", action="store_true", help="all loggers at DEBUG: users' words show, the token must not"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = torture(
            Path(folder),
            options.messages,
            options.chats,
            options.faults,
            options.kills,
            options.seed,
            600,
            options.debug,
        )
    counts = {n: result.answers.count(n) for n in sorted(set(result.answers))}
    print(f"{len(result.answers)} messages, {result.kills} kills, {result.faults} of {result.calls} calls failed")
    print(f"answers per message: {counts}; {result.seconds:.0f} s")
    print(f"empty messages left: {result.strays}; sendings whose answer was lost: {result.lost_sends}")
    leaks = TOKEN.partition(":")[2] in result.output, MARK in result.output
    print(f"in {len(result.output):,} characters of output: token {leaks[0]}, words of users {leaks[1]}")
    leaked = leaks[0] or (leaks[1] and not options.debug)
    sys.exit(counts != {1: len(result.answers)} or leaked or result.strays > result.excused)


if __name__ == "__main__":
    main()
