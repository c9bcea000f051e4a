"""Put a trained model on the air: an API that OpenAI's clients speak, and a page to talk to it.

python serve.py out/demo-chat
python serve.py out/demo-chat --host=0.0.0.0 --port=8080 --api_key_file=keys.txt --record=out/talks.jsonl
python serve.py out/demo-chat --engine=llama --gguf=demo-chat-q8_0.gguf
"""

import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from oracle import cli
from oracle.api import Served
from oracle.cli import UserError
from oracle.config import load, without_effect
from oracle.generate import Engine, open_engine
from oracle.hardware import setup_device
from oracle.http import Server
from oracle.metrics import Metrics
from oracle.private import read_private
from oracle.record import Recorder
from oracle.sampling import params_of
from oracle.service import Access, Page, Service
from oracle.settings import Config
from oracle.wire import Limits
from oracle.worker import Worker

PAGE = Path(__file__).with_name("web") / "index.html"
KEY_VARIABLE = "NANOORACLE_API_KEY"
STOP_SECONDS = 10.0  # for answers that are being written when the server is told to stop


def main(argv: Sequence[str]) -> None:
    call = load("serve.py", argv)
    config = call.config
    for warning in without_effect(config, "serve.py"):
        print(f"warning: {warning}", file=sys.stderr)
    keys = read_keys(config.api_key_file, os.environ)
    engine = engine_of(config)
    if call.dry_run:
        print(f"would serve {describe(engine)} at {config.host} port {config.port}")
        return
    print("warming up (longer the first time on a machine)", file=sys.stderr, flush=True)
    engine.warm_up()
    with Running(config, engine, keys) as running:
        announce(config, engine, running.address, bool(keys))
        wait_for_signal()
        print("stopping: answers in progress may end", file=sys.stderr)


def engine_of(config: Config) -> Engine:
    """The engine the settings ask for. Raises UserError if its files are missing or damaged."""
    if config.engine == "llama":
        from oracle.llama import open_gguf

        return open_gguf(config.out_dir, config.gguf, config.slots, config.threads)
    return open_engine(config.out_dir, config.checkpoint, config.dtype, config.slots, setup_device(config))


class Running:
    """A server over `engine`, from entering the `with` block to leaving it."""

    def __init__(self, config: Config, engine: Engine, keys: frozenset[str] = frozenset()) -> None:
        self.metrics = Metrics()
        self.worker = Worker(engine, config.max_waiting, self.metrics)
        self.recorder = Recorder(config.record) if config.record else None
        access = Access(keys, config.rate_per_minute, config.trust_proxy)
        served = served_by(engine, config)
        page = Page.read(PAGE)
        self.service = Service(served, self.worker, self.metrics, page, access, config.answer_seconds, self.recorder)
        limits = Limits(
            config.max_head_bytes, config.max_body_bytes,
            config.read_seconds, config.idle_seconds, config.write_seconds,
        )  # fmt: skip
        self.server = Server(config.host, config.port, self.service, limits, config.max_connections, config.trust_proxy)
        self.service.gauges = self.server.gauges
        self._thread = threading.Thread(target=self.server.run, name="accept", daemon=True)

    @property
    def address(self) -> str:
        host, port = self.server.address
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def __enter__(self) -> "Running":
        self.worker.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop(STOP_SECONDS)
        self.worker.stop()
        if self.recorder:
            self.recorder.close()


def served_by(engine: Engine, config: Config) -> Served:
    """What requests need to know of the model, and the defaults for what they leave unsaid."""
    return Served(
        engine.name, engine.tokenizer, engine.template, engine.block_size, params_of(config), config.max_answer_tokens
    )


def read_keys(path: str, environment: Mapping[str, str]) -> frozenset[str]:
    """The API keys, from the file and from the environment. Raises UserError for a file that others can read."""
    keys = {environment.get(KEY_VARIABLE, "").strip()}
    if path:
        text = read_private(path, "api_key_file", environment)
        keys |= {line.strip() for line in text.splitlines()}
        if not keys - {""}:
            raise UserError(f"--api_key_file={path}: no key in it; write one a line")
    return frozenset(keys - {""})


def describe(engine: Engine) -> str:
    kind = "a model that answers" if engine.template else "a base model, which continues texts and does not answer"
    return f"{engine.name} ({kind}; context {engine.block_size:,} tokens)"


def announce(config: Config, engine: Engine, address: str, keyed: bool) -> None:
    print(f"serving {describe(engine)}\n{address}/ is the page, {address}/v1 the API's address", flush=True)
    if not keyed and config.host not in ("127.0.0.1", "::1", "localhost"):
        print(
            f"warning: anyone who reaches {config.host} may use it; set {KEY_VARIABLE} or --api_key_file",
            file=sys.stderr,
        )
    if config.record:
        print(f"conversations that users rate are kept in {config.record}; the page and /v1/models say so", flush=True)


def wait_for_signal() -> None:
    """Until Ctrl-C or SIGTERM; a second one ends the process at once."""
    told = threading.Event()

    def note(number: int, frame: object) -> None:
        told.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    while not told.wait(0.5):
        pass


if __name__ == "__main__":
    sys.exit(cli.run(main))
