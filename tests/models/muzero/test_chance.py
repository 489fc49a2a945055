"""Chance outcomes learned end to end: what a certain model cannot plan for, and where the gradient goes."""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import models
from models import configuration, muzero
from models.agent import Spaces
from models.muzero import agent as acting
from models.muzero import losses, networks
from models.muzero.targets import Unrolled

NANO = muzero.Config.nano()
SAFE, LOOK = 0, 1


class Signal(gymnasium.Env):
    """Take a quarter of a basis point, or look at a fair coin: naming it pays one, missing it costs one.

    Looking is worth one to who waits for the coin and nothing to who must name it beforehand: a model in
    which the next state follows from the action shows an average of both coins.
    """

    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def _show(self):
        return np.array([self.coin, self.coin == 0, self.coin != 0], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.coin = 0.0
        return self._show(), {}

    def step(self, action):
        if self.coin == 0.0 and action == LOOK:
            self.coin = float(self.np_random.choice([-1.0, 1.0]))
            return self._show(), 0.0, False, False, {}
        if self.coin == 0.0:
            return self._show(), 0.25e-4, True, False, {}
        right = (self.coin > 0) == (action == 1)
        return self._show(), 1e-4 if right else -1e-4, True, False, {}


CONFIG = {
    **configuration.resolved(NANO), "search": "puct", "env_steps": 1600, "warmup_steps": 600,
    "updates_per_step": 0.4, "batch_size": 32, "latent": 12, "hidden": 24, "blocks": 0, "history": 1,
    "replay_capacity": 4000, "simulations": 40, "train_simulations": 32, "unroll_steps": 2, "n_step": 2,
    "discount": 0.97, "learning_rate": 1e-2, "target_period": 10, "value_bins": 21, "value_limit": 3.0,
    "reward_bins": 21, "reward_limit": 3.0, "reanalyse_ratio": 0.0,
    "dirichlet_fraction": 0.5, "dirichlet_alpha": 1.0,  # to keep looking while looking is not yet understood
}  # fmt: skip


def _train(**changes):
    env = SyncVectorEnv([Signal] * 16, autoreset_mode=AutoresetMode.NEXT_STEP)
    return models.train("muzero", env, {**CONFIG, **changes}, seed=0)


def test_chance_nodes_plan_for_what_a_certain_model_cannot():
    start = np.array([[0.0, 1.0, 0.0]], np.float32)
    heads = np.array([[1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]], np.float32)
    certain, chancy = _train(), _train(chance_outcomes=4)
    for agent in (certain, chancy):  # once the coin lies there, both know its name
        np.testing.assert_array_equal(agent.act(heads, agent.initial_state(2), seed=0).action, [1, 0])
    many = [agent.with_simulations(120) for agent in (certain, chancy)]
    blind, seeing = (agent.act(start, agent.initial_state(1), seed=0) for agent in many)
    assert seeing.action[0] == LOOK
    q = [decision.info["q_values"][0] for decision in (blind, seeing)]
    assert q[1][LOOK] > 0.6e-4 > q[0][LOOK]  # waiting for the coin is worth one; guessing it, nothing
    # The outcomes tell the coins apart: of two, each about as often as it falls.
    chances = chancy.with_simulations(120).explain(start, chancy.initial_state(1), seed=0)["tree"]
    look = np.flatnonzero((chances["parent"] == 0) & (chances["action"] == LOOK))[0]
    prior = np.sort(chances["prior"][chances["parent"] == look])
    assert prior[-1] < 0.75, prior
    assert prior[-2] > 0.2, prior
    # And forecasts part after the look: naming heads pays one or costs one.
    paths = chancy.forecast(
        start, chancy.initial_state(1), np.array([[LOOK, 1]]), horizon=2, samples=200, seed=0
    )
    named = paths[0, :, 1]
    assert abs(named.mean()) < 0.4e-4
    assert named.std() > 0.6e-4


def test_a_killed_training_with_chance_ends_in_the_same_bytes(tmp_path):
    def env():
        return gymnasium.make_vec("CartPole-v1", num_envs=4)

    def stop(step, metrics):
        if step >= 115:
            raise KeyboardInterrupt

    config = {**configuration.resolved(NANO), "search": "puct", "chance_outcomes": 3}
    lines = []
    models.train("muzero", env(), config, seed=7, log=lambda *line: lines.append(line)).save(
        tmp_path / "whole"
    )
    assert 1.0 <= lines[-1][1]["train/outcomes_used"] <= 3.0
    with pytest.raises(KeyboardInterrupt):
        models.train("muzero", env(), config, seed=7, checkpoint_dir=tmp_path / "kept", log=stop)
    models.train("muzero", env(), config, seed=7, checkpoint_dir=tmp_path / "kept").save(tmp_path / "resumed")
    for name in ("agent.json", "weights.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes(), name
    shown = np.zeros((2, 4), np.float32)
    agent = models.load(tmp_path / "whole")
    decision = agent.act(shown, agent.initial_state(2), seed=0)
    assert decision.info["visits"].shape == (2, 2)
    assert decision.info["visits"].sum() == 2 * NANO.simulations


def _batch(shape, steps, count=6):
    draw = np.random.default_rng(0)
    sizes = {
        "window": (shape.history, 3), "later": (steps, shape.history, 3), "later_weight": (steps,),
        "code": (steps, shape.actions.width), "reward": (steps,), "reward_weight": (steps,),
        "policy": (steps + 1, shape.actions.arms), "codes": (steps + 1, 0, 0), "policy_weight": (steps + 1,),
        "partial_return": (steps + 1,), "bootstrap": (steps + 1, shape.history, 3),
        "bootstrap_discount": (steps + 1,), "value_weight": (steps + 1,), "importance": (),
    }  # fmt: skip
    parts = {name: draw.normal(size=(count, *size)).astype(np.float32) for name, size in sizes.items()}
    for name in parts:
        if name.endswith("weight") or name == "importance":
            parts[name][:] = 1.0
    parts["policy"][:] = 1.0 / shape.actions.arms
    return Unrolled(**{name: tf.constant(part) for name, part in parts.items()})


def test_the_gradient_reaches_every_network_of_the_model_with_chance():
    config = configuration.parse(
        muzero.Config, {**configuration.resolved(NANO), "search": "puct", "chance_outcomes": 4}, where="test"
    )
    shape = acting.shape_of(config, Spaces(spaces.Box(-1, 1, (3,)), spaces.Discrete(3)))
    weights = networks.unflatten(
        tf.constant(np.random.default_rng(0).normal(0, 0.3, shape.size).astype(np.float32)), shape
    )
    batch, scales = _batch(shape, NANO.unroll_steps), losses.Scales(0.25, 1.0, 1.0, 0.0, 1.0)

    def reached(part, batch):
        with tf.GradientTape() as tape:
            tape.watch(list(weights.values()))
            wanted = tf.ones((6, NANO.unroll_steps + 1))
            loss = tf.reduce_sum(losses.unrolled_loss(weights, wanted, batch, shape, scales)[0][part])
        found = tape.gradient(loss, weights)
        return {name.split(".")[0] for name, g in found.items() if g is not None and float(tf.norm(g)) > 0}

    through = {"representation", "afterstate", "dynamics", "happened"}
    assert through <= reached("reward", batch)  # the encoder learns what makes the reward foreseeable
    assert through | {"prediction"} <= reached("policy", batch)
    assert through | {"prediction", "chance"} <= reached("value", batch)
    assert {"representation", "afterstate", "chance", "happened"} <= reached("chance", batch)
    # What was not observed teaches nothing about chance.
    blind = batch._replace(later_weight=tf.zeros_like(batch.later_weight))
    assert reached("chance", blind) == set()


def test_the_chance_loss_by_hand():
    code = tf.constant([[0.0, 1.0, 0.0]])
    guessed, likely = tf.constant([[0.2, 0.7, 0.1]]), tf.constant([[0.0, np.log(2.0), 0.0]], tf.float32)
    found = losses._surprise(code, guessed, likely)
    np.testing.assert_allclose(found, [np.log(2.0) + 0.04 + 0.09 + 0.01], rtol=1e-6)
