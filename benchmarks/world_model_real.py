"""The next return of a real market: the world model against GARCH(1,1)-t and a constant Gaussian.

    python -m benchmarks.world_model_real [--seeds 5]

Nats a bar. BTCUSDT, hourly, 2020 to 2024: `binance_usdm/BTCUSDT_1h.csv` below the folder of the environment
variable SHARED_DATA (`../shared/data` if unset). The last 20 % is held out, and nothing is fitted to it. The
return is the log return of the close, in its own unit. GARCH(1,1) with t errors is fitted by `arch` on the
same first 80 % and carried through the rest with its parameters fixed. The world model's density is the mean
over `DRAWS` paths of latents, as an agent that is not sure of what it sees. Volatility is foretold, not
direction: `mean_only`, the Gaussian whose mean moves with the model's and whose width stays, shows how little
that is.

Prints, and writes `benchmarks/results/world_model_real.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from arch import arch_model
from scipy.special import logsumexp
from scipy.stats import norm, t

import models
from benchmarks.world_model_regimes import GAP, Market
from models import runtime
from models.world_model import mdn_rnn, vae
from models.world_model.agent import WorldModelAgent
from models.world_model.mdn_rnn import Memory
from pipelines.features import DEFAULT_FEATURES, resolve, warm_up
from pipelines.sources.files import read_candles

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared" / "data"))
FILE = DATA / "binance_usdm" / "BTCUSDT_1h.csv"
DRAWS = 48
_UNIT = 1000.0  # of the returns that the library is given: it converges on numbers of order one
CONFIG: dict[str, Any] = {
    "env_steps": 30_000,
    "evaluation_steps": 100,
    "generations": 1,
    "population": 4,
    "dreams": 4,
    "reevaluation_dreams": 4,
}


def real_market() -> Market:
    candles = read_candles(FILE, symbol="BTCUSDT", interval="1h")
    bars = len(candles) - warm_up(resolve(DEFAULT_FEATURES))
    train = round(0.8 * bars)
    return Market("regimes", 0, bars - train - GAP, train_bars=train, candles=candles)


def density(agent: WorldModelAgent, market: Market) -> tuple[np.ndarray, np.ndarray]:
    """log p of each test bar's log return but the first's `[T]`, and the model's mean of it."""
    learned, shape = agent.learned, agent.design.world.memory
    begin = market.test.start - 64
    posterior = agent.encode(market.features[begin : market.test.stop])
    draw = np.random.default_rng(0)
    noise = draw.standard_normal((DRAWS, *posterior.mean.shape)).astype(np.float32)
    z = vae.sample(posterior, noise)  # [N, T, Z]
    empty = np.zeros((DRAWS, shape.units), np.float32)
    memory, h = Memory(empty, empty), np.empty((*z.shape[:2], shape.units), np.float32)
    for row in range(z.shape[1]):
        memory = mdn_rnn.step(learned.memory, memory, z[:, row])
        h[:, row] = memory.h
    weights = {name: tf.constant(value) for name, value in learned.memory.items()}
    seen = mdn_rnn.outlook(weights, tf.constant(h[:, 64:-1]), tf.constant(z[:, 64:-1]), shape)
    simple = market.returns[market.test][1:]
    scaled = (simple / learned.payoff_scale[0]).astype(np.float32)
    law = mdn_rnn.marginal_payoff(seen.mixture, shape)
    each = law.log_prob(np.broadcast_to(scaled[:, None], (DRAWS, len(scaled), 1))).numpy()
    mean = law.mean().numpy().mean(axis=0)[:, 0] * learned.payoff_scale[0]
    # From scaled simple to log returns: d simple / d log = 1 + simple.
    unit = np.log1p(simple) - np.log(learned.payoff_scale[0])
    return logsumexp(each, axis=0) - np.log(DRAWS) + unit, mean


def garch(log_returns: np.ndarray, train: int) -> np.ndarray:
    """log p of every bar after the first `train`, parameters from those alone."""
    scaled = _UNIT * log_returns
    fitted = arch_model(scaled[:train], mean="Constant", vol="GARCH", p=1, q=1, dist="t").fit(disp="off")
    whole = arch_model(scaled, mean="Constant", vol="GARCH", p=1, q=1, dist="t").fix(fitted.params)
    freedom = fitted.params["nu"]
    width = np.asarray(whole.conditional_volatility) * np.sqrt((freedom - 2.0) / freedom)
    return np.asarray(t.logpdf(scaled, freedom, fitted.params["mu"], width) + np.log(_UNIT))[train:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", default="{}", help="changes of the configuration, as JSON")
    arguments = parser.parse_args()
    if not FILE.exists():
        sys.exit(f"skipped: there is no {FILE}")
    runtime.single_thread()
    market = real_market()
    log_returns = np.log1p(market.returns)
    train, ahead = log_returns[1 : market.train], slice(market.test.start + 1, market.test.stop)
    tested = log_returns[ahead]
    figures: dict[str, Any] = {
        "bars": [len(train), len(tested)],
        "constant_gaussian": float(-norm.logpdf(tested, train.mean(), train.std()).mean()),
        "garch_t": float(-garch(log_returns[1:], market.train - 1)[-len(tested) :].mean()),
    }
    print(json.dumps(figures), flush=True)
    runs = []
    for seed in range(arguments.seeds):
        began = time.process_time()
        changes = CONFIG | json.loads(arguments.set)
        agent = models.train("world_model", market.training_env(), changes, seed=seed)
        assert isinstance(agent, WorldModelAgent)
        found, mean = density(agent, market)
        runs.append(
            {
                "seed": seed,
                "nll": float(-found.mean()),
                "mean_only": float(-norm.logpdf(tested, mean, train.std()).mean()),
                "reward_r2": float(agent.learned.terms[-1]),
                "cpu_seconds": time.process_time() - began,
            }
        )
        print(json.dumps(runs[-1]), flush=True)
    result = figures | {
        "command": f"python -m benchmarks.world_model_real --seeds {arguments.seeds}"
        + (f" --set '{arguments.set}'" if arguments.set != "{}" else ""),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "runs": runs,
    }
    path = Path(__file__).parent / "results" / "world_model_real.json"
    path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
