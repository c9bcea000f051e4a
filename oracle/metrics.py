"""Counts of what a server did, in the text format Prometheus reads (exposition format 0.0.4)."""

import threading
from collections import defaultdict
from collections.abc import Mapping

# Name -> (what Prometheus calls it, help). A histogram's buckets are seconds.
COUNTERS = {
    "requests": ("requests_total", "Requests answered, by path and status"),
    "prompt_tokens": ("prompt_tokens_total", "Tokens of the prompts of finished requests"),
    "generated_tokens": ("generated_tokens_total", "Tokens written"),
    "engine_failures": ("engine_failures_total", "Steps of the model that failed"),
    "vanished": ("clients_vanished_total", "Clients that went away before their answer was whole"),
    "ratings": ("ratings_total", "Answers that users rated, by rating"),
}
HISTOGRAMS = {
    "first_token_seconds": ("first_token_seconds", "From the request to its first token"),
    "answer_seconds": ("answer_seconds", "From the request to the end of its answer"),
}
BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
PREFIX = "nanooracle_"


class Metrics:
    """Counters and histograms; any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], float] = defaultdict(float)
        self._seen: dict[str, list[int]] = {name: [0] * (len(BUCKETS) + 1) for name in HISTOGRAMS}
        self._sums = dict.fromkeys(HISTOGRAMS, 0.0)

    def add(self, name: str, amount: float = 1, **labels: object) -> None:
        """Add to a counter of `COUNTERS`. Label values must come from a short fixed list, never from a client."""
        text = ",".join(f'{label}="{value}"' for label, value in labels.items())
        with self._lock:
            self._counts[name, text] += amount

    def observe(self, name: str, seconds: float) -> None:
        """Put a duration into a histogram of `HISTOGRAMS`."""
        bucket = next((n for n, limit in enumerate(BUCKETS) if seconds <= limit), len(BUCKETS))
        with self._lock:
            self._seen[name][bucket] += 1
            self._sums[name] += seconds

    def text(self, gauges: Mapping[str, tuple[float, str]]) -> str:
        """All of it; `gauges` are name -> (value now, help)."""
        with self._lock:
            counts, seen, sums = dict(self._counts), {n: list(c) for n, c in self._seen.items()}, dict(self._sums)
        lines: list[str] = []
        for name, (shown, meaning) in COUNTERS.items():
            lines += _head(shown, meaning, "counter")
            own = {labels: value for (key, labels), value in counts.items() if key == name}
            lines += [f"{PREFIX}{shown}{{{ls}}} {v:g}" if ls else f"{PREFIX}{shown} {v:.0f}" for ls, v in own.items()]
            if not own:
                lines.append(f"{PREFIX}{shown} 0")
        for name, (shown, meaning) in HISTOGRAMS.items():
            lines += _head(shown, meaning, "histogram")
            so_far = 0
            for limit, count in zip((*BUCKETS, float("inf")), seen[name], strict=True):
                so_far += count
                lines.append(f'{PREFIX}{shown}_bucket{{le="{"+Inf" if limit == float("inf") else limit}"}} {so_far}')
            lines += [f"{PREFIX}{shown}_sum {sums[name]:.6f}", f"{PREFIX}{shown}_count {so_far}"]
        for name, (value, meaning) in gauges.items():
            lines += [*_head(name, meaning, "gauge"), f"{PREFIX}{name} {value:g}"]
        return "\n".join(lines) + "\n"


def _head(name: str, meaning: str, kind: str) -> list[str]:
    return [f"# HELP {PREFIX}{name} {meaning}", f"# TYPE {PREFIX}{name} {kind}"]
