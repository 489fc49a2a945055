"""How many bars a second the exchange client reads, checks and hands out on one core.

    python benchmarks/bybit.py

`parse`: bytes of a page to a checked table, nothing else. `fetch`: the whole client against the fake
exchange in another process, without a limit on the rate; its pages are made beforehand. Writes
`benchmarks/results/bybit.json`.
"""

from __future__ import annotations

import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipelines.sources.bybit import BybitClient  # noqa: E402
from pipelines.sources.bybit_answers import read_answer  # noqa: E402
from pipelines.sources.bybit_rows import KLINE_COLUMNS, frame_of, interval, read_bars  # noqa: E402
from tests.fakes.exchange import NOW, FakeExchange  # noqa: E402

MINUTE = 60_000
PAGES = 400
ROUNDS = 3


def parse() -> float:
    """Bars a second of one core's CPU time, best of the rounds."""
    first = NOW - NOW % MINUTE - 2000 * MINUTE
    last = first + 999 * MINUTE
    params = {"category": "linear", "symbol": "BTCUSDT", "interval": "1", "limit": "1000"}
    _, body = FakeExchange().answer("/v5/market/kline", {**params, "start": str(first), "end": str(last)})
    response = requests.Response()
    response.status_code = 200
    data, grid = body.encode(), interval("1m")
    best = math.inf
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(PAGES):
            answer = read_answer(response, data, "", NOW)
            bars = read_bars(
                answer,
                category="linear",
                symbol="BTCUSDT",
                grid=grid,
                first=first,
                last=last,
                columns=KLINE_COLUMNS,
            )
            assert frame_of(bars, KLINE_COLUMNS).height == 1000
        best = min(best, time.process_time() - began)
    return PAGES * 1000 / best


def fetch(workers: int) -> dict[str, float]:
    """Bars a second through HTTP, by the wall clock and by this process's CPU time."""
    command = [sys.executable, "-m", "tests.fakes.exchange"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        end = NOW - NOW % MINUTE - MINUTE
        start = end - (PAGES * 1000 - 1) * MINUTE
        wall = cpu = math.inf
        with BybitClient(
            url, requests_per_second=math.inf, workers=workers, wall_clock=lambda: NOW / 1e3
        ) as client:
            for _ in range(ROUNDS + 1):
                began, spent = time.perf_counter(), time.process_time()
                windows = client.iter_klines("linear", "BTCUSDT", "1m", start, end)
                bars = sum(piece.frame.height for piece in windows)
                assert bars == PAGES * 1000
                wall = min(wall, time.perf_counter() - began)
                cpu = min(cpu, time.process_time() - spent)
        server.communicate()
    return {"bars_per_second": round(bars / wall), "bars_per_cpu_second": round(bars / cpu)}


def main() -> None:
    figures = {
        "command": "python benchmarks/bybit.py",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "parse_bars_per_cpu_second": round(parse()),
        "fetch_1_worker": fetch(1),
        "fetch_4_workers": fetch(4),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps(figures, indent=2))
    target = ROOT / "benchmarks" / "results" / "bybit.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
