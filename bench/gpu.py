"""The GPU while it works: clock and power, by nvidia-smi where there is one."""

import contextlib
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator

import torch

QUERY = ["--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits", "--loop-ms=250"]


@contextlib.contextmanager
def watching(device: torch.device, clocks: list[float], watts: list[float]) -> Iterator[None]:
    """Add the medians of the SM clock (MHz) and the power drawn (W) meanwhile to the two lists; or nothing."""
    if device.type != "cuda" or not shutil.which("nvidia-smi"):
        yield
        return
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", "")
    which = [f"--id=GPU-{uuid}"] if uuid else []
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(["nvidia-smi", *which, *QUERY], stdout=log, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.terminate()
            process.wait()
            log.seek(0)
            clock, power = medians(log.read())
            if clock:
                clocks.append(clock)
            if power:
                watts.append(power)


def medians(lines: str) -> tuple[float, float]:
    """(MHz, W) of nvidia-smi's `clock, power` lines; 0 where it says nothing of use, such as `[N/A]`."""
    columns: tuple[list[float], list[float]] = ([], [])
    for line in lines.splitlines():
        for values, word in zip(columns, line.split(","), strict=False):
            with contextlib.suppress(ValueError):
                values.append(float(word))
    clock, power = (statistics.median(values) if values else 0.0 for values in columns)
    return clock, power
