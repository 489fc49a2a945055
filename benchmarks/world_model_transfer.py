"""What a start from another market saves: ETH from BTC, a simulated pair with shared dynamics.

    python -m benchmarks.world_model_transfer [--seeds 5]

For each seed, 12 000 bars of both symbols. Four agents: BTC from scratch; ETH from scratch; ETH from the BTC
agent with a quarter of the updates; ETH from scratch with a quarter of the updates. No controller is evolved.
What is compared are nats a step on 3 000 bars of ETH that no agent has seen, in the same units for all:

- `observed`: to foretell the next observation and return, by the bound -log p <= NLL of M - E log p(x | z) -
  H(q), which does not depend on what the agents' latents mean;
- `return`: of the next return alone.

Prints, and writes `benchmarks/results/world_model_transfer.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import tensorflow as tf

import models
from benchmarks.world_model_regimes import GAP, SHORT, TRAIN, Market, foretell
from models import runtime
from models.world_model import Config, vae
from models.world_model.agent import WorldModelAgent
from pipelines.features import DEFAULT_FEATURES, resolve, warm_up
from pipelines.sources.simulator import simulate_market

WHOLE: dict[str, Any] = {
    "evaluation_steps": 100,
    "generations": 1,
    "population": 4,
    "dreams": 4,
    "reevaluation_dreams": 4,
}
QUARTER = {"vae_epochs": Config().vae_epochs // 4, "rnn_epochs": Config().rnn_epochs // 4}


def nats(agent: WorldModelAgent, market: Market) -> dict[str, float]:
    """Of the test window, in the units of features and returns as the market has them."""
    found, learned = foretell(agent, market), agent.learned
    ahead = slice(market.test.start + 1, market.test.stop)
    x = ((market.features[ahead] - learned.centre) / learned.scale).astype(np.float32)
    posterior = vae.encode(learned.vision, x, agent.design.vision)
    given = vae.likelihood(learned.vision, tf.constant(found.z[ahead]), agent.design.vision).log_prob(x)
    entropy = 0.5 * (posterior.log_variance + np.log(2 * np.pi) + 1).sum(axis=1)
    unit = float(np.log(learned.payoff_scale[0]))
    whole = found.nll - entropy - given.numpy() + np.log(learned.scale).sum() + unit
    return {"observed": float(whole.mean()), "return": float(found.own.mean()) + unit}


def one(seed: int) -> dict[str, Any]:
    skip = warm_up(resolve(DEFAULT_FEATURES))
    pair = simulate_market(
        symbols=["BTC", "ETH"],
        interval="1h",
        start=datetime(2022, 1, 1, tzinfo=UTC),
        bars=skip + TRAIN + GAP + SHORT + 1,
        seed=seed,
    ).candles
    btc, eth = (
        Market("regimes", seed, candles=pair.filter(pl.col("symbol") == name)) for name in ("BTC", "ETH")
    )
    figures: dict[str, Any] = {"seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        origin = Path(folder) / "btc"
        models.train("world_model", btc.training_env(), WHOLE, seed=seed).save(origin)
        for name, changes, start in (
            ("from_scratch", {}, None),
            ("transferred_quarter", QUARTER, origin),
            ("from_scratch_quarter", QUARTER, None),
        ):
            began = time.process_time()
            agent = models.train(
                "world_model", eth.training_env(), WHOLE | changes, seed=seed + 100, init_from=start
            )
            assert isinstance(agent, WorldModelAgent)
            figures[name] = nats(agent, eth) | {"cpu_seconds": time.process_time() - began}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    runtime.single_thread()
    runs = []
    for seed in range(arguments.seeds):
        runs.append(one(seed))
        print(json.dumps(runs[-1]), flush=True)
    result = {
        "command": f"python -m benchmarks.world_model_transfer --seeds {arguments.seeds}",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "reached_in_a_quarter": {
            name: sum(run["transferred_quarter"][name] <= run["from_scratch"][name] for run in runs)
            for name in ("observed", "return")
        },
        "runs": runs,
    }
    print(json.dumps(result["reached_in_a_quarter"]))
    path = Path(__file__).parent / "results" / "world_model_transfer.json"
    path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
