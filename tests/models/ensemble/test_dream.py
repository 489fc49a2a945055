"""The ensemble and its rollouts, on weights that are given: no training here."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from models import rng
from models.ensemble import agent, decision, dream, losses, networks
from models.ensemble.config import Config
from models.ensemble.dream import Known, Limits, Model
from models.ensemble.networks import Scaling, Shape
from models.planning.plan import Choices, Continuous

SHAPE = Shape(3, Continuous((-1.0,), (2.0,)), 4, (6, 5), "silu")
GRID = SHAPE._replace(space=Choices((3, 2)))
SEED = rng.key(9)
DRAW = np.random.default_rng(2)


def _scaling(shape, ends=0.0):
    width = shape.inputs + shape.action_inputs
    parts = [DRAW.normal(size=width), DRAW.uniform(0.5, 2, width)]
    parts += [0.1 * DRAW.normal(size=shape.targets), DRAW.uniform(0.2, 0.5, shape.targets)]
    return Scaling(*(tf.constant(part, tf.float32) for part in (*parts, ends)))


def _model(shape=SHAPE, same=False, ends=0.0):
    weights = networks.initial(shape, 5)
    if same:
        weights = networks.members(weights, np.zeros(shape.members, np.int32))
    return Model(weights, _scaling(shape, ends))


def _settings(shape=SHAPE, **changes):
    config = Config.nano()
    return agent.settings_of(config, shape.space)._replace(**changes)


def _inputs(shape=SHAPE, rows=7):
    return tf.constant(DRAW.normal(size=(rows, shape.inputs + shape.action_inputs)), tf.float32)


def _observation(batch=2):
    return tf.constant(DRAW.normal(size=(batch, 3)), tf.float32)


def _actions(batch=2, number=5, horizon=3):
    return tf.constant(DRAW.uniform(-1, 2, (batch, number, horizon, 1)), tf.float32)


def test_members_are_independent_and_permuting_them_permutes_what_they_say():
    weights, inputs = networks.initial(SHAPE, 5), _inputs()
    plain = networks.predict(weights, inputs, SHAPE)
    assert plain.mean.shape == (4, 7, 4)
    assert not np.allclose(plain.mean[0], plain.mean[1])
    order = np.array([2, 0, 3, 1])
    permuted = networks.predict(networks.members(weights, order), inputs, SHAPE)
    for before, after in zip(plain, permuted, strict=True):
        np.testing.assert_allclose(after, tf.gather(before, order), rtol=1e-5, atol=1e-6)


def test_the_log_variance_stays_inside_its_bounds():
    weights = networks.initial(SHAPE, 5)
    for factor in (1.0, 1e4):
        loud = weights._replace(kernels=tuple(factor * kernel for kernel in weights.kernels))
        log_variance = networks.predict(loud, _inputs(), SHAPE).log_variance.numpy()
        assert (log_variance >= networks.MIN_LOG_VARIANCE - 1e-4).all()
        assert (log_variance <= networks.MAX_LOG_VARIANCE + 1e-4).all()
    assert np.ptp(log_variance) > 10  # pushed hard, both ends are reached


def test_the_true_gaussian_has_the_smallest_loss_and_its_literal_value():
    shape = Shape(1, Continuous((-1.0,), (1.0,)), 1, (), "silu")
    noise = DRAW.normal(size=(20_000, 2)).astype(np.float32)
    size = np.float32([0.3, 0.7])

    def likelihood(mean, log_variance):
        bias = np.float32([[[*mean, *log_variance, 30.0]]])
        wide = 100.0 * np.ones((1, 1, 2), np.float32)  # bounds that bind nowhere
        weights = networks.Weights((tf.zeros((1, 2, 5)),), (tf.constant(bias),), wide, -wide)
        rows = tf.zeros((len(noise), 2))
        parts = losses.negative_log_likelihood(
            weights, rows, tf.constant(noise * size), tf.ones((1, len(noise))), 1.0, shape
        )
        assert float(tf.reduce_max(parts["continuation"])) < 1e-9
        return float(tf.reduce_mean(parts["gaussian"]))

    truth = likelihood((0, 0), 2 * np.log(size))
    expected = np.mean(0.5 * np.log(2 * np.pi) + np.log(size) + 0.5 * np.square(noise).mean(axis=0))
    assert truth == pytest.approx(expected, abs=1e-4)
    for mean, log_variance in (((0.1, 0), 2 * np.log(size)), ((0, 0), 2 * np.log(size) + [0.2, 0]),
                               ((0, 0), 2 * np.log(size) - [0, 0.2])):  # fmt: skip
        assert likelihood(mean, log_variance) > truth + 1e-3


@pytest.mark.parametrize(("share", "counts"), [(0.0, [0.25] * 4), (0.7, [0.1, 0.1, 0.1, 0.7])])
def test_the_reward_weighs_what_it_is_told_to(share, counts):
    weights, inputs = networks.initial(SHAPE, 5), _inputs()
    targets = tf.constant(DRAW.normal(size=(7, 4)), tf.float32)
    parts = losses.negative_log_likelihood(weights, inputs, targets, tf.ones((4, 7)), 0.0, SHAPE, share)
    mean, log_variance, _ = networks.predict(weights, inputs, SHAPE)
    nats = 0.5 * (np.log(2 * np.pi) + log_variance + tf.square(targets - mean) / tf.exp(log_variance))
    np.testing.assert_allclose(parts["gaussian"], (nats.numpy() * counts).sum(axis=-1), rtol=1e-5)


def test_scaling_folded_into_the_weights_changes_nothing():
    model, inputs = _model(), _inputs()
    folded = networks.predict(dream.fold(model), inputs, SHAPE)
    plain = networks.predict(model.weights, (inputs - model.scaling.mean) / model.scaling.size, SHAPE)
    for one, other in zip(folded, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_column_that_never_moves_is_not_blown_up():
    data = np.ones((50, 2)) * 7.3
    data[:, 1] = DRAW.normal(size=50)
    scaling = networks.measure(data, data, ends=False)
    assert scaling.size[0] == 1.0
    assert float(scaling.target_size[1]) == pytest.approx(float(data[:, 1].std()), rel=1e-6)


def _roll(model, shape=SHAPE, settings=None, observation=None, actions=None, **options):
    return dream.dream(model, observation, actions, SEED, shape=shape, settings=settings, **options)


def test_a_rollout_is_the_model_applied_step_by_step():
    model, observation, actions = _model(), _observation(), _actions()
    settings = _settings(propagation="mean", discount=0.9)
    found = _roll(model, settings=settings, observation=observation, actions=actions)
    for b, n in ((0, 0), (1, 4)):
        x, total = tf.tile(observation[b : b + 1], (4, 1))[:, None], 0.0  # [K, 1, D]
        for h in range(3):
            step = tf.broadcast_to(actions[b, n, h], (4, 1, 1))
            inputs = (tf.concat([x, step], -1) - model.scaling.mean) / model.scaling.size
            mean = networks.predict(model.weights, inputs, SHAPE).mean
            target = mean * model.scaling.target_size + model.scaling.target_mean
            x, reward = x + target[..., :3], target[:, 0, 3]
            np.testing.assert_allclose(found.rewards[h, :, 0, b, n], reward, rtol=1e-4, atol=1e-5)
            total += 0.9**h * reward
        np.testing.assert_allclose(found.returns[:, 0, b, n], total, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.last[:, 0, b, n], x[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("propagation", ["ts1", "tsinf", "mean"])
def test_identical_members_are_one_model(propagation):
    shape = SHAPE._replace(members=1)
    settings = _settings(propagation=propagation)
    observation, actions = _observation(), _actions()
    many = _model(same=True)
    single = Model(networks.members(many.weights, np.array([0])), many.scaling)
    several = _roll(many, settings=settings, observation=observation, actions=actions)
    one = _roll(single, shape, settings, observation=observation, actions=actions)
    if propagation == "mean":
        np.testing.assert_allclose(several.returns, np.tile(one.returns, (4, 1, 1, 1)), atol=1e-5)
    first = several.rewards[0]  # before any noise, all say the same
    np.testing.assert_allclose(first, np.tile(one.rewards[0], (4, 1, 1, 1)), rtol=1e-5, atol=1e-6)
    sure = dream.doubt(many, observation, actions[:, 0, 0], SHAPE)
    np.testing.assert_allclose(sure.epistemic, 0.0, atol=1e-10)
    assert (dream.doubt(_model(), observation, actions[:, 0, 0], SHAPE).epistemic.numpy() > 1e-4).all()


def test_with_one_member_changing_places_changes_nothing():
    shape = SHAPE._replace(members=1)
    model = _model(shape)
    observation, actions = _observation(), _actions()
    both = [
        _roll(model, shape, _settings(propagation=p, particles=3), observation, actions).returns
        for p in ("ts1", "tsinf")
    ]
    np.testing.assert_array_equal(*both)


def test_particles_of_ts1_change_members_and_the_means_agree_in_one_step():
    model, observation, actions = _model(), _observation(), _actions(horizon=6)
    ts1, tsinf = (
        _roll(model, settings=_settings(propagation=p, particles=2), observation=observation, actions=actions)
        for p in ("ts1", "tsinf")
    )
    np.testing.assert_allclose(np.sort(ts1.rewards[0], axis=0), np.sort(tsinf.rewards[0], axis=0), rtol=1e-5)
    assert not np.allclose(np.sort(ts1.rewards[3], axis=0), np.sort(tsinf.rewards[3], axis=0), atol=1e-3)


@pytest.mark.parametrize("shape", [SHAPE, GRID])
def test_a_decision_does_not_depend_on_its_batch(shape):
    model, observation = _model(shape), _observation(5)
    settings = _settings(shape, propagation="ts1", samples=30, horizon=3)
    limits = Limits(*map(tf.constant, agent.OPEN))
    kind = tf.float32 if shape is SHAPE else tf.int32
    run = functools.partial(decision.decider, shape, settings, Known(), compiled=False)
    start = tf.zeros((5, 3, 1 if shape is SHAPE else 2), kind)
    whole = run(5)(model, observation, start, limits, SEED)
    alone = run(1)(model, observation[2:3], start[2:3], limits, SEED)
    np.testing.assert_allclose(alone[1][0], whole[1][2], atol=1e-4)
    for name in ("value", "epistemic", "planned_rewards", "advantage"):
        np.testing.assert_allclose(alone[2][name][0], whole[2][name][2], rtol=1e-3, atol=1e-4)


def test_ended_paths_earn_nothing_and_known_functions_take_the_place_of_learned_ones():
    model, observation, actions = _model(ends=1.0), tf.zeros((1, 3)), _actions(1, 4, 5)
    known = Known(
        reward=lambda x, a, y: y[..., 0],
        terminated=lambda y: y[..., 0] > 2.5,
        step=lambda x, a: x + 1.0,
        value=lambda x: 100.0 + 0.0 * x[..., 0],
    )
    settings = _settings(propagation="mean", horizon=5)
    ended = _roll(model, settings=settings, observation=observation, actions=actions, known=known)
    np.testing.assert_allclose(ended.returns, 1.0 + 2.0 + 3.0)  # the third step ends it, and pays
    np.testing.assert_allclose(ended.rewards[3:], 0.0)
    lasting = known._replace(terminated=lambda y: y[..., 0] > 1e9)
    lived = _roll(model, settings=settings, observation=observation, actions=actions, known=lasting)
    np.testing.assert_allclose(lived.returns, 1 + 2 + 3 + 4 + 5 + 100.0)
    learned = _roll(
        model, settings=settings, observation=observation, actions=actions,
        known=Known(reward=lambda x, a, y: tf.ones_like(x[..., 0])),
    )  # fmt: skip
    assert (learned.returns.numpy() < 5.0).all()  # the model thinks that it might end
    assert (learned.returns.numpy() > 1.0).all()


def test_a_penalty_and_a_short_span_lower_returns_but_not_rewards():
    model, observation, actions = _model(), _observation(), _actions()
    base = _roll(model, settings=_settings(), observation=observation, actions=actions)
    settings = _settings(disagreement_penalty=1.0)
    charged = _roll(model, settings=settings, observation=observation, actions=actions)
    np.testing.assert_allclose(charged.rewards, base.rewards)
    assert (base.returns - charged.returns).numpy().mean() > 0.05
    span = tf.constant([[1.0, 0.0, 0.0]] * 2)
    short = _roll(model, settings=_settings(), observation=observation, actions=actions, span=span)
    np.testing.assert_allclose(short.returns, base.rewards[0], rtol=1e-5, atol=1e-6)


def test_the_gate_closes_on_disagreement_on_doubtful_advantage_and_on_broken_models():
    observation = _observation(2)
    settings = _settings(samples=20, neutral=(0.25,), confidence_to_stay=1.0)
    start = tf.zeros((2, 3, 1))
    run = decision.decider(SHAPE, settings, Known(), 2, compiled=False)

    def decide(model, **limits):
        values = Limits(*map(tf.constant, agent.OPEN._replace(**limits)))
        action, plan, info = run(model, observation, start, values, SEED)
        return action.numpy(), plan.numpy(), {name: value.numpy() for name, value in info.items()}

    model = _model()
    action, plan, info = decide(model)
    np.testing.assert_array_equal(action, plan[:, 0])
    assert (info["gated"] == 0).all()
    between = np.float32(info["epistemic"].mean())
    action, plan, info = decide(model, disagreement=between)
    np.testing.assert_array_equal(info["gated"], info["epistemic"] > between)
    assert info["gated"].sum() == 1
    np.testing.assert_array_equal(action[info["gated"] == 1], [[0.25]])
    ratio = info["advantage"] / info["advantage_deviation"]
    cut = np.float32(ratio.mean())
    np.testing.assert_array_equal(decide(model, confidence=cut)[2]["gated"], ratio < cut)
    broken = model._replace(scaling=model.scaling._replace(target_size=tf.fill((4,), np.nan)))
    action, _, info = decide(broken)
    np.testing.assert_array_equal(action, [[0.25], [0.25]])
    np.testing.assert_array_equal(info["lost"], [1.0, 1.0])


def test_to_go_on_takes_less_than_to_begin_or_to_turn():
    model, observation = _model(), tf.repeat(_observation(1), 3, axis=0)
    settings = _settings(
        planner="shooting", samples=200, propagation="mean", neutral=(-0.5,), confidence_to_stay=0.0,
        warm_start=False,
    )  # fmt: skip
    run = decision.decider(SHAPE, settings, Known(), 3, compiled=False)
    idle = tf.fill((3, 3, 1), -0.5)
    free, *_ = run(model, observation, idle, Limits(*map(tf.constant, agent.OPEN)), SEED)
    away = float(free[0, 0]) + 0.5
    before = tf.constant([0.0, 1.0, -1.0])[:, None, None]  # flat, with it, against it
    state = idle + 0.1 * tf.sign(away) * before
    strict = Limits(*map(tf.constant, agent.OPEN._replace(confidence=np.float32(1e9))))
    action, following, info = run(model, observation, state, strict, SEED)
    assert (info["advantage"].numpy() > 0).all()
    np.testing.assert_array_equal(info["gated"], [1.0, 0.0, 1.0])
    np.testing.assert_array_equal(following[0], idle[0])  # what is not followed is not carried on
    np.testing.assert_array_equal(action[1], free[1])


@pytest.mark.parametrize(("shape", "numbers"), [(SHAPE, [1, 2, 3, 0.5, 0.5, 1, 1.5]), (
    GRID, [1, 2, 3, 0, 0, 1, 0, 1, 1, 2, 3, 1, 2, 3])])  # fmt: skip
def test_interactions_are_products_with_the_level_of_an_action(shape, numbers):
    shape = shape._replace(interactions=True)
    action = np.float32([[0.5]]) if shape.space is SHAPE.space else np.int32([[2, 1]])
    joined = networks.join(np.float32([[1, 2, 3]]), action, shape)
    np.testing.assert_allclose(joined[0], numbers)
    assert joined.shape[1] == shape.inputs + shape.action_inputs
    lowest = networks.join(np.float32([[1, 2, 3]]), 0 * action, shape)[0, -3:]
    np.testing.assert_allclose(lowest, [0, 0, 0] if shape.space is SHAPE.space else [-1, -2, -3])


def test_neutral_actions_come_from_the_space_or_the_configuration():
    config = Config.nano()
    assert agent.neutral_action(config, Continuous((-1.0, 0.5), (2.0, 1.0))) == (0.0, 0.5)
    assert agent.neutral_action(config, Choices((5, 3))) == (2.0, 1.0)
    given = Config(neutral=(1,))
    assert agent.neutral_action(given, Choices((3,))) == (1.0,)
    for bad, space in (((3,), Choices((3,))), ((0.5,), Choices((3,))), ((0, 0), Continuous((0.0,), (1.0,)))):
        with pytest.raises(ValueError, match="is no action of"):
            agent.neutral_action(Config(neutral=bad), space)


def test_configurations_that_contradict_themselves_are_refused():
    with pytest.raises(ValueError, match="elites: 6 is not allowed; it must be at most members, 5"):
        Config(elites=6)
    with pytest.raises(ValueError, match="elite_samples: 40 is not allowed"):
        Config(elite_samples=40)
    with pytest.raises(ValueError, match="it must be the family that learns"):
        Config(acting="policy")
    with pytest.raises(ValueError, match=r"regime_columns: \(3,\) is not allowed"):
        Config(regime_rule="given", regime_columns=(3,))
    with pytest.raises(ValueError, match="horizon: 2 is not allowed with regime_rule model"):
        Config(regime_rule="model", horizon=2)
