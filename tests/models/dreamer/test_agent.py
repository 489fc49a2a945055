"""Acting: belief carried step by step, rows apart, and the tail told as it is."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

import models
from models import rng
from models.agent import Spaces
from models.dreamer import Config, agent, networks
from models.dreamer.rssm import Latent, feature

GRID = spaces.Discrete(5)


def _agent(space=GRID, seed=0, **changes):
    config = dataclasses.replace(Config.nano(), **changes)
    seen = Spaces(spaces.Box(-np.inf, np.inf, (3,), np.float32), space)
    made = networks.build(config, seen, seed)
    # New heads say nothing at all; give them and the actor something to say.
    draw = np.random.default_rng(seed)
    for layer in (made.world.reward, made.critic, made.actor):
        out = layer.variables[-2]
        out.assign(draw.normal(size=out.shape).astype(np.float32))
    return agent.DreamerAgent(config, seen, made, reward_scale=50.0, counters={"updates": 0})


@pytest.fixture(scope="module")
def trader():
    return _agent()


def _shown(rows, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, 3)).astype(np.float32)


def test_the_tail_is_that_of_the_paths():
    returns = np.random.default_rng(0).permuted(np.arange(100.0))[None] - 10.0
    risk = agent.tail_risk(returns, 0.05)
    assert risk.value_at_risk.tolist() == [6.0]  # the fifth worst is -6
    assert risk.expected_shortfall.tolist() == [8.0]  # the mean of -10 to -6
    assert agent.tail_risk(returns, 0.001).expected_shortfall.tolist() == [10.0]  # at least one path


def test_rows_do_not_influence_each_other_and_info_is_consistent(trader):
    shown, state = _shown(6), trader.initial_state(6)
    for _ in range(2):
        decision = trader.act(shown, state, seed=3)
        state = decision.state
    info = decision.info
    assert GRID.contains(decision.action[0])
    assert info["imagined_returns"].shape == (6, Config.nano().imagined_paths)
    assert info["imagined_returns"].std(axis=1).min() > 0.0
    np.testing.assert_allclose(info["policy"].sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(info["policy"].argmax(-1), decision.action)
    np.testing.assert_allclose(
        info["return_quantiles"][:, 2], np.median(info["imagined_returns"], axis=1), rtol=1e-5
    )
    assert (info["expected_shortfall"] >= info["value_at_risk"]).all()
    sizes = Config.nano().sizes
    assert (info["latent_entropy"] > 0).all()
    assert (info["latent_entropy"] <= sizes.groups * np.log(sizes.classes) + 1e-4).all()
    assert (info["surprise"] > 0).all()
    order = np.array([5, 3, 4, 0, 1, 2])
    state = trader.initial_state(6)
    for _ in range(2):
        other = trader.act(shown[order], state, seed=3)
        state = other.state
    for name in info:
        np.testing.assert_allclose(other.info[name], info[name][order], rtol=1e-4, atol=1e-6)


def test_the_seed_drives_imagination_only(trader):
    shown = _shown(6)
    one, two = (trader.act(shown, trader.initial_state(6), seed=seed) for seed in (1, 2))
    np.testing.assert_array_equal(one.action, two.action)
    np.testing.assert_array_equal(one.state["deterministic"], two.state["deterministic"])
    assert not np.array_equal(one.info["imagined_returns"], two.info["imagined_returns"])
    again = trader.act(shown, trader.initial_state(6), seed=1)
    np.testing.assert_array_equal(one.info["imagined_returns"], again.info["imagined_returns"])


def test_the_belief_is_carried_as_training_filters_it(trader):
    """Step by step in acting is `observe` over the whole stretch, with the modes of the same posteriors."""
    steps = [_shown(6, seed) for seed in range(4)]
    state, beliefs, actions = trader.initial_state(6), [], [np.zeros((6, 5), np.float32)]
    for shown in steps:
        decision = trader.act(shown, state, seed=0)
        state = decision.state
        beliefs.append(state["deterministic"])
        actions.append(state["action"])
    rssm = trader.networks.world.rssm
    latent = rssm.initial(6)
    for t, shown in enumerate(steps):
        h = rssm.forward(latent, actions[t])
        np.testing.assert_allclose(beliefs[t], h, atol=1e-5)
        latent = Latent(h, rssm.mode(rssm.recognise(h, trader.networks.world.encode(shown))))
    first = rssm.observe(
        rssm.initial(6),
        trader.networks.world.encode(np.stack(steps, 1)),
        np.stack(actions[:4], 1),
        np.eye(1, 4, dtype=bool).repeat(6, 0),
        rng.key(0),
    )
    np.testing.assert_allclose(first.latent.deterministic[:, 0], beliefs[0], atol=1e-5)
    # What was seen before matters to what is believed now.
    assert not np.allclose(
        beliefs[3], trader.act(steps[3], trader.initial_state(6)).state["deterministic"], atol=1e-3
    )


def test_an_agent_on_disk_decides_as_before(tmp_path, trader):
    trader.save(tmp_path / "agent")
    loaded = models.load(tmp_path / "agent")
    assert loaded.digest() == trader.digest()
    one, two = (each.act(_shown(6), each.initial_state(6), seed=4) for each in (trader, loaded))
    assert set(one.info) == set(two.info)
    for name in one.info:
        np.testing.assert_array_equal(one.info[name], two.info[name])
    np.testing.assert_array_equal(one.action, two.action)


def test_a_feared_shortfall_holds_the_action_back(trader):
    shown = _shown(6)
    free = trader.act(shown, trader.initial_state(6), seed=0)
    limit = float(np.sort(free.info["expected_shortfall"])[2])
    assert limit > 0
    careful = _agent(shortfall_limit=limit, neutral_choice=2).act(shown, trader.initial_state(6), seed=0)
    wild = free.info["expected_shortfall"] > limit * (1 + 1e-5)
    assert 0 < wild.sum() < 6
    scale = careful.info["exposure_scale"]
    np.testing.assert_allclose(
        scale, np.minimum(1.0, limit / free.info["expected_shortfall"].clip(limit)), rtol=1e-5
    )
    before, after = np.abs(free.action - 2), np.abs(careful.action - 2)
    np.testing.assert_array_equal(after, np.floor(before * scale + 1e-6))
    np.testing.assert_array_equal(
        careful.state["action"].argmax(-1), careful.action
    )  # it remembers what it did


def test_money_is_in_the_units_of_the_environment(trader):
    shown = _shown(6)
    one = trader.act(shown, trader.initial_state(6), seed=0).info
    other = agent.DreamerAgent(trader.config, trader.spaces, trader.networks, reward_scale=100.0, counters={})
    two = other.act(shown, other.initial_state(6), seed=0).info
    for name in ("value", "imagined_returns", "expected_shortfall", "value_at_risk", "return_quantiles"):
        np.testing.assert_allclose(one[name], 2 * two[name], rtol=1e-5)
    np.testing.assert_array_equal(one["surprise"], two["surprise"])


def _certain(space, share=0.25, bins=(20, 30)):
    """An agent whose reward head says one of two bins whatever the state, and that never ends."""
    made = _agent(space)
    world = made.networks.world
    kernel, bias = world.reward.variables[-2:]
    kernel.assign(np.zeros(kernel.shape, np.float32))
    logits = np.full(bias.shape, -1e9, np.float32)
    logits[list(bins)] = np.log([1.0 - share, share])
    bias.assign(logits)
    world.proceed.variables[-1].assign([100.0])
    return made


@pytest.mark.parametrize(
    ("space", "held"),
    [
        (GRID, np.array(4)),
        (spaces.MultiDiscrete([3, 5], start=[-1, 0]), np.array([1, 4])),
        (spaces.Box(-1.0, 3.0, (2,), np.float32), np.array([3.0, -1.0], np.float32)),
    ],
    ids=["discrete", "several", "box"],
)
def test_a_forecast_has_the_spread_of_the_reward_and_not_only_its_mean(space, held):
    made = _certain(space)
    low, high = made.networks.world.reward.bins[[20, 30]] / made.reward_scale
    shown, state = _shown(3), made.initial_state(3)
    actions = np.broadcast_to(held, (3, 6, *held.shape))
    paths = made.forecast(shown, state, actions, horizon=6, samples=500, seed=1)
    assert paths.shape == (3, 500, 6)
    np.testing.assert_allclose(np.unique(paths.round(9)), np.round([low, high], 9))
    np.testing.assert_allclose((paths > (low + high) / 2).mean((0, 1)), 0.25, atol=4 * np.sqrt(0.19 / 500))
    own = made.forecast(shown, state, None, horizon=6, samples=500, seed=1)
    np.testing.assert_array_equal(own, paths)  # here no action matters, and the seed is the same
    assert not np.array_equal(made.forecast(shown, state, None, horizon=6, samples=500, seed=2), own)


def test_a_forecast_follows_the_actions_it_is_given(trader):
    shown, state = _shown(4), trader.initial_state(4)
    for _ in range(2):
        state = trader.act(shown, state).state
    own = trader.act(shown, state).action

    def ask(actions, rows=slice(None)):
        part = {name: values[rows] for name, values in state.items()}
        return trader.forecast(shown[rows], part, actions, horizon=3, samples=400, seed=5)

    # The first step of the agent's own plan is what `act` takes; the rows do not know of each other.
    np.testing.assert_array_equal(ask(None)[:, :, 0], ask(np.repeat(own[:, None], 3, 1))[:, :, 0])
    held = np.full((4, 3), 1)
    np.testing.assert_allclose(ask(held)[2:3], ask(held[2:3], slice(2, 3)), rtol=1e-4, atol=1e-7)
    late = held.copy()
    late[:, 2] = 3
    np.testing.assert_array_equal(ask(late)[:, :, :2], ask(held)[:, :, :2])
    assert not np.array_equal(ask(late)[:, :, 2], ask(held)[:, :, 2])
    # Over many paths the mean of what is drawn is what the head expects.
    world, count = trader.networks.world, 400
    h = world.rssm.forward(Latent(state["deterministic"], state["stochastic"]), state["action"])
    posterior = tf.repeat(world.rssm.recognise(h, world.encode(shown)), count, axis=0)
    z = world.rssm.sample(posterior, world.rssm.noise(rng.key(8), 1, 4 * count)[0])
    start = Latent(tf.repeat(h, count, axis=0), z)
    taken = np.eye(5, dtype=np.float32)[np.ones(4 * count, int)]
    dreamt = world.rssm.imagine(start, lambda *_: taken, world.rssm.noise(rng.key(9), 1, 4 * count))
    expected = world.reward.mean(world.reward(feature(dreamt.latent)[1])).numpy().reshape(4, count).mean(1)
    drawn = ask(held)[:, :, 0]
    error = drawn.std(1) / np.sqrt(count)
    assert (np.abs(drawn.mean(1) - expected / trader.reward_scale) < 5 * error).all()
    with pytest.raises(ValueError, match="2 actions were given for a horizon of 3"):
        ask(held[:, :2])
