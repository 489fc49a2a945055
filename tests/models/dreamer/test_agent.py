"""Acting: belief carried step by step, rows apart, and the tail told as it is."""

import dataclasses

import numpy as np
import pytest
from gymnasium import spaces

import models
from models import rng
from models.agent import Spaces
from models.dreamer import Config, agent, networks
from models.dreamer.rssm import Latent

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
