"""A pipeline of two stages with the files of the real one, in a second: what the nights do around it.

Run in a toy repository: `python toy.py fetch` or `python toy.py rest`. A file `broken` stops `rest`, as
failed expectations would.
"""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

DVC_YAML = """\
stages:
  fetch:
    cmd: python toy.py fetch
    deps: [toy.py]
    params: [data]
    outs: [data/raw]
  rest:
    cmd: python toy.py rest
    deps: [data/raw]
    params: [data, training]
    outs: [artifacts, results]
    metrics:
      - metrics/data.json: {cache: false}
      - metrics/comparison.json: {cache: false}
"""
PARAMS = """\
preset: default
data:
  start: "2022-01-01"
  end: "2022-01-20"  # a comment that stays
training:
  init_from: {}
agents:
  dqn: {}
nightly:
  from_scratch_every: 2
  promotion:
    confidence: 0.5
    max_drawdown: 0.9
    replications: 100
    vacant: anyone
"""
BARS = 48


def with_exchange(folder: Path, url: str) -> Path:
    """One whose candles come through the project's own fetch stage (found on `PYTHONPATH`)."""
    source = f'source: bybit\n  symbols: [BTCUSDT]\n  bybit: {{base_url: "{url}"}}\n'
    params = PARAMS.replace('start: "2022-01-01"', source + '  start: "2024-01-01"')
    params = params.replace('"2022-01-20"', '"2024-01-09"')
    params = params.replace("nightly:\n", "nightly:\n  fetch_patience_minutes: 0.1\n")
    stages = DVC_YAML.replace("python toy.py fetch", "python -m pipelines.stages.fetch").replace(
        "outs: [data/raw]", "outs: [data/raw, data/truth]"
    )
    return made(folder, stages, params)


def made(folder: Path, stages: str = DVC_YAML, params: str = PARAMS) -> Path:
    """A toy repository on branch main."""
    folder.mkdir(parents=True)
    for name, text in {
        "dvc.yaml": stages,
        "params.yaml": params,
        "presets/default.yaml": "{}\n",
        "toy.py": Path(__file__).read_text("utf-8"),
        ".gitignore": "/data/\n/artifacts/\n/results/\n/store/\n/work/\n/.nightly/\n__pycache__/\n",
        ".dvcignore": ".nightly\n",
        ".gitattributes": "metrics/trials.jsonl merge=union\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run([*git, "init", "-q", "-b", "main"], cwd=folder, check=True)
    subprocess.run(["dvc", "init", "-q"], cwd=folder, check=True)
    subprocess.run([*git, "add", "-A"], cwd=folder, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "toy"], cwd=folder, check=True)
    return folder


def window() -> tuple[str, dict[str, str]]:
    """`data.end` and `training.init_from` of params.yaml."""
    from ruamel.yaml import YAML

    tree = YAML(typ="safe").load(Path("params.yaml").read_text("utf-8"))
    return str(tree["data"]["end"]), tree["training"]["init_from"]


def path(agent: str, end: str, mean: float):  # type: ignore[no-untyped-def]
    """Two days of hourly bars that end with the window; a few basis points more or less."""
    import polars as pl

    last = datetime.fromisoformat(end).replace(tzinfo=UTC)
    times = [last - timedelta(hours=BARS - bar) for bar in range(BARS)]
    returns = [mean + (1e-3 if bar % 2 else -1e-3) for bar in range(BARS)]
    return pl.DataFrame(
        {"agent": agent, "fold": 0, "seed": 0, "open_time": times, "log_return": returns, "ruined": False},
        schema_overrides={"fold": pl.Int32, "seed": pl.Int32, "open_time": pl.Datetime("ms", "UTC")},
    )


def skill(end: str) -> float:
    """Rises and falls from day to day, so that some nights promote and some refuse."""
    return 1e-4 * (int(end[-2:]) % 3)


def rest() -> None:
    end, origin = window()
    if Path("broken").exists():
        print("failed: high_at_least_low: 3 rows", file=sys.stderr)
        sys.exit("error: the candles failed 1 check(s): high_at_least_low")
    agent = Path("artifacts/dqn/fold-0/seed-0")
    for folder in (agent, Path("results"), Path("metrics")):
        folder.mkdir(parents=True, exist_ok=True)
    (agent / "agent.json").write_text(json.dumps({"config": {}, "end": end, "origin": origin}))
    (agent / "training.json").write_text(
        json.dumps({"until": f"{end}T00:00", "init_from": origin.get("dqn")})
    )
    path("dqn", end, skill(end)).write_parquet("results/dqn.parquet")
    path("flat", end, 0.0).write_parquet("results/baselines.parquet")
    Path("metrics/data.json").write_text(json.dumps({"expectations": {"failed": 0}}))
    found = {"agents": {"dqn": {"verdict": "a toy", "skill": skill(end)}}, "data": end}
    Path("metrics/comparison.json").write_text(json.dumps(found))


def walk_champion(clone: Path, say: object) -> None:
    """The champion keeps the skill of the day it was trained on."""
    trained = json.loads((clone / "champion/agent.json").read_text("utf-8"))["end"]
    end = json.loads((clone / "metrics/comparison.json").read_text("utf-8"))["data"]
    (clone / "work").mkdir(exist_ok=True)
    path("champion", end, skill(trained)).write_parquet(clone / "work/duel.parquet")


if __name__ == "__main__":
    if sys.argv[1] == "fetch":
        Path("data/raw").mkdir(parents=True)
        Path("data/raw/window").write_text(window()[0])
    elif sys.argv[1] == "rest":
        rest()
