"""The dream: one compiled batch against single steps, common random numbers, and as an environment."""

import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from models import rng
from models.world_model import controller, dream, mdn_rnn
from models.world_model.actions import Acts
from models.world_model.dream import Noise, State, World
from models.world_model.env import DreamVectorEnv
from models.world_model.mdn_rnn import Memory

LEVELS = (-1.0, -0.5, 0.0, 0.5, 1.0)
SETTING = {"temperature": 1.0, "payoff_scale": [0.01], "cost": 1e-3, "risk_aversion": 1.0}


def _world(exposure, joint=True):
    acts = Acts("levels", (5,), (0,), LEVELS) if exposure else Acts("choices", (3,), (0,))
    memory = mdn_rnn.Shape(2, 1, 0 if exposure else 3, 4, 3, joint)
    control = controller.Shape(6, 1 if exposure else 0, 0, acts.outputs)
    return World(memory, control, acts, exposure)


def _imagination(exposure, joint=True, *, sure=True, **changes):
    world = _world(exposure, joint)
    weights = mdn_rnn.initial(world.memory, 0)
    weights["head.kernel"] = 10 * weights["head.kernel"]
    weights["head.kernel"][:, -1] = 0.0
    weights["head.bias"][-1] = 20.0 if sure else 1.0  # goes on (almost) for certain, or ends soon
    draw = np.random.default_rng(1)
    z, h, c = (draw.normal(size=(16, width)).astype(np.float32) for width in (2, 4, 4))
    held = draw.choice(LEVELS, (16, world.control.held)).astype(np.float32)
    starts = State(z, Memory(np.tanh(h), c), held)
    return dream.imagination(world, weights, starts, **{**SETTING, **changes})


def _params(world, number=5):
    return np.random.default_rng(2).normal(size=(number, world.control.size)).astype(np.float32)


@pytest.mark.parametrize(("exposure", "joint"), [(False, True), (True, True), (True, False)])
@pytest.mark.parametrize("expected", [False, True])
def test_a_compiled_batch_equals_single_steps_of_single_controllers(exposure, joint, expected):
    imagination, steps, dreams = _imagination(exposure, joint), 4, 3
    params = _params(imagination.world)
    found = imagination.dream(params, dreams=dreams, steps=steps, seed=7, expected=expected, record=True)
    shared = dream.noise(imagination.world.memory, steps, dreams, seed=rng.derive(7, "noise"))
    start = imagination.begin(dreams, seed=rng.derive(7, "begin"))
    for who in range(5):
        alone = tf.constant(params[who : who + 1])
        for place in range(dreams):
            one = slice(place, place + 1)
            memory = Memory(start.memory.h[one], start.memory.c[one])
            state, total = State(start.z[one], memory, start.held[None, one]), 0.0
            for t in range(steps):
                moved = dream.advance(
                    imagination.world,
                    imagination.weights,
                    imagination.setting,
                    state,
                    dream.decide(imagination.world, alone, state).value,
                    tf.constant(shared.pick[t, one]),
                    tf.constant(shared.normal[t, one]),
                    expected=expected,
                )
                state, total = moved.state, total + float(moved.reward[0, 0])
            assert float(found.total[who, place]) == pytest.approx(total, rel=1e-3, abs=1e-6)
            row = place if exposure else who * dreams + place
            np.testing.assert_allclose(found.latents[-1, row], state.z[0], rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(found.payoffs[-1, row], moved.payoff[0], rtol=1e-3, atol=1e-5)


def test_controllers_that_decide_the_same_dream_the_same():
    imagination = _imagination(exposure=False)
    params = _params(imagination.world, 2)
    twice = np.stack([params[0], params[1], 3.0 * params[0]])  # the scale of scores decides nothing
    found = imagination.dream(twice, dreams=8, steps=6, seed=1)
    np.testing.assert_allclose(found.total[0], found.total[2], rtol=1e-5, atol=1e-7)
    assert (np.abs(found.total[0] - found.total[1]) > 1e-5).any()
    again = imagination.dream(twice, dreams=8, steps=6, seed=1)
    np.testing.assert_array_equal(found.total, again.total)
    other = imagination.dream(twice, dreams=8, steps=6, seed=2)
    assert (np.asarray(found.total) != np.asarray(other.total)).all()


def test_expected_and_sampled_rewards_agree_on_average():
    imagination = _imagination(exposure=True, payoff_scale=[1e-3])  # bars, not crashes
    params = _params(imagination.world, 1)
    sampled, expected = (
        np.asarray(imagination.dream(params, dreams=5000, steps=3, seed=3, expected=way).total[0])
        for way in (False, True)
    )
    error = (sampled - expected).std() / np.sqrt(5000)
    assert abs(sampled.mean() - expected.mean()) < 4 * error + 1e-6
    assert expected.std() < sampled.std()


def test_standing_still_earns_nothing_and_trading_costs_the_turnover():
    imagination = _imagination(exposure=True, payoff_scale=[0.0])
    world = imagination.world
    flat = np.zeros((1, world.control.size), np.float32)
    long = flat.copy()
    long[0, -1] = 10.0  # the bias: always fully long
    starts = imagination.starts._replace(held=np.zeros((16, 1), np.float32))
    found = imagination._replace(starts=starts).dream(
        np.concatenate([flat, long]), dreams=4, steps=5, seed=0, expected=False
    )
    np.testing.assert_array_equal(found.total[0], 0.0)
    np.testing.assert_allclose(found.total[1], np.log(1 - 1e-3), rtol=1e-4)  # once; then it holds


def test_an_ended_dream_pays_no_more():
    nobody = np.zeros((1, _world(False).control.size), np.float32)
    never, soon = (
        np.asarray(_imagination(False, sure=sure).dream(nobody, dreams=4, steps=40, seed=5).total)
        for sure in (True, False)
    )
    assert np.abs(soon).max() < 0.5 * np.abs(never).max()


def test_temperature_widens_the_tails():
    world = _world(True)
    spread = [
        np.asarray(
            _imagination(True, temperature=tau)
            .dream(np.zeros((1, world.control.size), np.float32), dreams=500, steps=4, seed=0, record=True)
            .payoffs
        ).std()
        for tau in (0.25, 1.0, 4.0)
    ]
    assert spread[0] < spread[1] < spread[2]


def test_fitness_over_all_and_over_the_worst():
    total, square = np.array([[4.0, 0.0, 2.0, 2.0]]), np.array([[8.0, 4.0, 2.0, 2.0]])
    found = dream.Dream(total, square, None, None)
    assert dream.fitness(found, 2, "return")[0] == pytest.approx(1.0)
    assert dream.fitness(found, 2, "return", 0.25)[0] == pytest.approx(0.0)
    assert dream.fitness(found, 2, "sharpe")[0] == pytest.approx(1.0 / np.sqrt(2.0 - 1.0))


@pytest.mark.parametrize("exposure", [False, True])
def test_the_dream_is_an_environment(exposure):
    imagination = _imagination(exposure, sure=exposure)
    space = spaces.Discrete(5 if exposure else 3)
    draw = np.random.default_rng(0)
    taken = draw.integers(0, space.n, (12, 4))

    def run(seed):
        env = DreamVectorEnv(imagination, space, num_envs=4, steps=5)
        assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
        shown = [env.reset(seed=seed)[0]]
        rest = []
        for action in taken:
            observation, *more, _ = env.step(action)
            assert env.observation_space.contains(observation)
            shown.append(observation)
            rest.append(more)
        return np.stack(shown), [np.stack(part) for part in zip(*rest, strict=True)]

    shown, (reward, terminated, truncated) = run(3)
    again, _ = run(3)
    np.testing.assert_array_equal(shown, again)
    assert (run(4)[0] != shown).any()
    over = terminated | truncated
    assert not (terminated & truncated).any()
    assert (reward[1:][over[:-1]] == 0.0).all()  # the step after an end only begins anew
    if exposure:
        assert not terminated.any()
        np.testing.assert_array_equal(np.flatnonzero(truncated[:, 0]), [4, 10])
        begun = shown[6, :, :2]  # z of the first observation after the end comes from the starts
        assert all((imagination.starts.z == z).all(axis=1).any() for z in begun)
        # The account: what is shown as held follows from the action, and turnover was paid.
        held = np.array(LEVELS)[taken[0]]
        np.testing.assert_allclose(shown[1, :, -1], held, atol=0.1)
    else:
        assert terminated.any()
    env = DreamVectorEnv(imagination, space, num_envs=2, steps=5)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="are not of"):
        env.step(np.array([0, 99]))


def test_noise_is_shared_by_name_only():
    shape = _world(True).memory
    first, second = (dream.noise(shape, 3, 4, seed=1) for _ in range(2))
    assert isinstance(first, Noise)
    np.testing.assert_array_equal(first.normal, second.normal)
    assert dream.noise(shape._replace(joint=False), 3, 4, seed=1).pick.shape == (3, 4, 3)
