"""The server under load on this machine: a crowd of clients, some of them bad, for a minute; then together against alone.

    python -m bench.serve [--clients=50] [--seconds=60] [--rounds=3] [--slots=8] [--dtype=auto] [--out=out/bench-serve]

The model has GPT-2's smallest shape with 16,000 pieces (97 M parameters) and random weights; it is made once, in --out.
The clients run in this process, on the same cores.
"""

import contextlib
import http.client
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from bench.crowd import KINDS, LOST, Client, Tally
from bench.generate import model_of
from bench.options import Options, read
from oracle import cli
from oracle.markdown import table
from oracle.settings import Config

OWN = {
    "clients": "50",
    "seconds": "60",
    "rounds": "3",
    "slots": "8",
    "dtype": "auto",
    "out": "out/bench-serve",
    "threads": "2",
}
SHAPE = Config(n_layer=12, n_head=12, n_embd=768, block_size=1024, vocab_size=16_000, data_dir="none")
WORK = {"short": (4, 16), "long": (60, 200)}  # words of the prompts, for together against alone
REQUESTS = 4  # of each client
Address = tuple[str, int]


def main(argv: Sequence[str]) -> None:
    options = read(argv, OWN)
    run = model_of(Path(options.own["out"]), SHAPE)
    found = load(run, options)
    found |= together_and_alone(run, options)
    print(json.dumps({"bench": "serve", "torch": torch.__version__, **options.own, **found}))


def load(run: Path, options: Options) -> dict[str, object]:
    """The crowd, with health asked after throughout; then everybody vanishes at once, and one more asks."""
    tally, over, health = Tally(), threading.Event(), list[float]()
    with server(run, options, options.number("slots")) as (process, address):
        one(address)
        memory = [resident(process)]
        probe = threading.Thread(target=watch, args=(address, over, health, memory, process), daemon=True)
        clients = [Client(n, address, over, tally, KINDS) for n in range(options.number("clients"))]
        began = time.monotonic()
        for thread in (probe, *clients):
            thread.start()
        time.sleep(options.number("seconds"))
        over.set()
        for client in clients:  # those who wait for an answer get it
            client.join(timeout=120)
        seconds = time.monotonic() - began
        recovery = vanish_and_ask(address, options.number("clients"))
        memory.append(resident(process))
    rows = [[kind, status, str(count)] for (kind, status), count in sorted(tally.statuses.items())]
    print("\n".join(table(["client", "status", "times"], rows)))
    result = {
        "requests": sum(tally.statuses.values()),
        "by_status": dict(_by_status(tally)),
        "lost": sum(count for (_, status), count in tally.statuses.items() if status == LOST),
        "tokens_per_second": round(tally.tokens / seconds, 1),
        "health_asked": len(health),
        "health_max_seconds": round(max(health), 3),
        "recovery_seconds": round(recovery, 3),
        "rss_mb_start_middle_end": [memory[0], memory[len(memory) // 2], memory[-1]],
        "first_token_median": round(statistics.median(tally.first_token), 2),
        "first_token_p95": round(percentile(tally.first_token), 2),
        "client_tokens_per_second_median": round(statistics.median(tally.speed), 2),
        "client_tokens_per_second_p5": round(percentile(tally.speed, 5), 2),
    }
    print("\n".join(table(["", ""], [[name, str(value)] for name, value in result.items()])))
    for line in tally.lost[:5]:
        print(f"lost: {line}", file=sys.stderr)
    return result


def together_and_alone(run: Path, options: Options) -> dict[str, object]:
    """Tokens per second when as many requests as there are places are written at once, and when one is at a time."""
    rounds: dict[str, dict[str, list[float]]] = {work: {"together": [], "alone": []} for work in WORK}
    for _ in range(options.number("rounds")):
        for name, slots in (("together", options.number("slots")), ("alone", 1)):
            with server(run, options, slots) as (_, address):
                for work, lengths in WORK.items():
                    one(address)
                    speed = work_through(address, options.number("slots"), lengths)
                    rounds[work][name].append(speed)
                    print(f"{work} {name}: {speed:.1f} tokens/s", file=sys.stderr, flush=True)
    medians = {
        work: {name: round(statistics.median(found), 1) for name, found in by_name.items()}
        for work, by_name in rounds.items()
    }
    times = {work: round(found["together"] / found["alone"], 2) for work, found in medians.items()}
    rows = [[w, str(found["together"]), str(found["alone"]), str(times[w])] for w, found in medians.items()]
    print("\n".join(table(["prompts", "together, tokens/s", "one at a time", "times"], rows)))
    return {"throughput": medians, "times": times}


def work_through(address: Address, clients: int, lengths: Sequence[int]) -> float:
    """Tokens per second from the first request to the last answer; the requests are the same at every call."""
    tally, over, began = Tally(), threading.Event(), time.monotonic()
    crowd = [Client(n, address, over, tally, {"whole": 1.0}, lengths, REQUESTS) for n in range(clients)]
    for client in crowd:
        client.start()
    for client in crowd:
        client.join()
    return tally.tokens / (time.monotonic() - began)


@contextlib.contextmanager
def server(run: Path, options: Options, slots: int) -> Iterator[tuple[subprocess.Popen[str], Address]]:
    """`serve.py` over the run in a process of its own."""
    settings = [
        "--port=0", f"--slots={slots}", f"--max_waiting={options.number('clients')}", "--rate_per_minute=0",
        "--max_connections=128", "--read_seconds=3", f"--threads={options.own['threads']}", "--device=cpu",
        f"--dtype={options.own['dtype']}",
    ]  # fmt: skip
    command = [sys.executable, "serve.py", str(run), *settings]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        for line in process.stdout:
            if found := re.match(r"http://(\S+):(\d+)/ ", line):
                yield process, (found[1], int(found[2]))
                break
        else:
            raise cli.UserError("the server did not start; what it said is above")
    finally:
        process.terminate()
        process.wait(timeout=60)


def one(address: Address) -> float:
    """Seconds that a short answer takes."""
    began = time.monotonic()
    connection = http.client.HTTPConnection(*address, timeout=60)
    body = json.dumps({"prompt": "α", "max_tokens": 1})
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    connection.getresponse().read()
    connection.close()
    return time.monotonic() - began


def vanish_and_ask(address: Address, clients: int) -> float:
    """`clients` ask for long answers and vanish, all at once; seconds until the next one has its own."""
    crowd = []
    for number in range(clients):
        client = Client(number, address, threading.Event(), Tally(), KINDS)
        body = json.dumps({"prompt": "α β γ", "max_tokens": 500, "stream": True}).encode()
        crowd.append(client._send(client._bytes(body)))
    time.sleep(1)
    for sock in crowd:
        sock.close()
    return one(address)


def watch(
    address: Address, over: threading.Event, health: list[float], memory: list[int], process: "subprocess.Popen[str]"
) -> None:
    """Ask for /health four times a second, and note the memory."""
    while not over.wait(0.25):
        began = time.monotonic()
        connection = http.client.HTTPConnection(*address, timeout=30)
        connection.request("GET", "/health")
        connection.getresponse().read()
        connection.close()
        health.append(time.monotonic() - began)
        memory.append(resident(process))


def resident(process: "subprocess.Popen[str]") -> int:
    """Megabytes of memory the process holds."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    return int(found[1]) // 1024 if found else 0


def percentile(values: list[float], p: int = 95) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * p // 100)]


def _by_status(tally: Tally) -> Counter[str]:
    counts: Counter[str] = Counter()
    for (_, status), count in tally.statuses.items():
        counts[status] += count
    return counts


if __name__ == "__main__":
    sys.exit(cli.run(main))
