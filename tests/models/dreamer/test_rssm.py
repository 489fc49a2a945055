"""The recurrent core: where gradients go, what a reset forgets, and that dreams follow the prior."""

import numpy as np
import pytest
import tensorflow as tf

from models import rng
from models.dreamer import losses, rssm
from models.dreamer.config import SIZES
from models.dreamer.rssm import Latent

B, T, E, A = 3, 5, 6, 2
NANO = SIZES["nano"]
SIZES_HERE = [NANO, NANO._replace(blocks=4)]


def _core(sizes=NANO, seed=1):
    return rssm.RSSM(sizes, tokens=E, actions=A, unimix=0.01, seed=seed)


def _data(seed=0):
    draw = np.random.default_rng(seed)
    tokens = draw.normal(size=(B, T, E)).astype(np.float32)
    actions = np.eye(A, dtype=np.float32)[draw.integers(0, A, (B, T))]
    return tokens, actions, np.zeros((B, T), bool)


@pytest.fixture(params=SIZES_HERE, ids=["dense", "blocks"])
def core(request):
    return _core(request.param)


def test_mixed_and_draw_are_a_distribution_and_its_samples():
    logits = tf.constant([[0.0, 1000.0, -1000.0], [0.5, 0.2, -0.1]])
    p = rssm.mixed(logits, 0.03).numpy()
    np.testing.assert_allclose(p[0], [0.01, 0.98, 0.01], rtol=1e-5)
    np.testing.assert_allclose(p.sum(-1), 1.0, rtol=1e-6)
    # By inversion: below the first probability lies the first class, and so on.
    uniform = np.array([0.0, 0.0099, 0.5, 0.9899, 0.9901, 1.0 - 2.0**-24], np.float32)[:, None]
    drawn = rssm.draw(tf.repeat(p[:1], len(uniform), axis=0), uniform).numpy()
    np.testing.assert_array_equal(drawn.argmax(-1), [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(drawn.sum(-1), 1.0)
    many = rssm.draw(tf.repeat(p[1:], 20_000, axis=0), rng.uniform(rng.key(0), (20_000, 1))).numpy()
    np.testing.assert_allclose(many.mean(0), p[1], atol=4 * np.sqrt(0.25 / 20_000))


def test_straight_through_is_one_hot_with_the_gradient_of_the_probabilities():
    p = tf.constant([[0.2, 0.5, 0.3]])
    slope = tf.constant([[1.0, -2.0, 3.0]])
    with tf.GradientTape() as tape:
        tape.watch(p)
        z = rssm.straight_through(p, tf.constant([[0.4]]))
        out = tf.reduce_sum(z * slope)
    np.testing.assert_array_equal(z, [[0.0, 1.0, 0.0]])
    np.testing.assert_array_equal(tape.gradient(out, p), slope)


def test_stochastic_states_are_one_hot_and_one_hot_of_is_their_inverse(core):
    seen = core.observe(core.initial(B), *_data(), rng.key(0))
    z = seen.latent.stochastic.numpy().reshape(B, T, core.sizes.groups, core.sizes.classes)
    np.testing.assert_array_equal(np.sort(z, -1)[..., -2:], np.broadcast_to([0.0, 1.0], (*z.shape[:3], 2)))
    back = rssm.one_hot_of(tf.constant(z.argmax(-1)), core.sizes.classes)
    np.testing.assert_array_equal(back, seen.latent.stochastic)
    assert seen.posterior.shape == seen.prior.shape == z.shape


def test_a_reset_makes_the_suffix_independent_of_the_prefix(core):
    tokens, actions, first = _data()
    other_tokens, other_actions, _ = _data(seed=9)
    first[:, 2] = True
    start = Latent(*(tf.ones_like(part) for part in core.initial(B)))
    seen = core.observe(start, tokens, actions, first, rng.key(3))
    tokens[:, :2], actions[:, :3] = other_tokens[:, :2], 1.0 - other_actions[:, :3]  # also the action into it
    again = core.observe(core.initial(B), tokens, actions, first, rng.key(3))
    for one, two in zip(tf.nest.flatten(seen), tf.nest.flatten(again), strict=True):
        np.testing.assert_array_equal(one[:, 2:], two[:, 2:])
    assert np.abs(seen.latent.deterministic[:, 1] - again.latent.deterministic[:, 1]).max() > 1e-3
    # Without the flag the past is remembered.
    first[:] = False
    open_ = [core.observe(s, tokens, actions, first, rng.key(3)) for s in (start, core.initial(B))]
    assert np.abs(open_[0].latent.deterministic[:, 4] - open_[1].latent.deterministic[:, 4]).max() > 1e-3


def test_a_reset_step_is_the_first_step_of_an_episode(core):
    tokens, actions, first = _data()
    first[:, 0] = True
    used = Latent(*(tf.ones_like(part) for part in core.initial(B)))
    fresh = core.observe(core.initial(B), tokens, np.zeros_like(actions), ~first & False, rng.key(1))
    reset = core.observe(used, tokens, actions, first, rng.key(1))
    np.testing.assert_array_equal(fresh.latent.deterministic[:, 0], reset.latent.deterministic[:, 0])
    np.testing.assert_array_equal(fresh.posterior[:, 0], reset.posterior[:, 0])


def test_batch_elements_do_not_influence_each_other(core):
    tokens, actions, first = _data()
    seen = core.observe(core.initial(B), tokens, actions, first, rng.key(0))
    tokens[0] += 1.0
    changed = core.observe(core.initial(B), tokens, actions, first, rng.key(0))
    np.testing.assert_array_equal(seen.posterior[1:], changed.posterior[1:])
    assert np.abs(seen.posterior[0] - changed.posterior[0]).max() > 1e-3


def test_observe_then_imagine_is_the_prior_path(core):
    """Where the posterior is made to say what the prior says, watching and dreaming are the same."""
    tokens, actions, first = _data()
    seen = core.observe(core.initial(B), tokens, actions, first, rng.key(0))
    start = Latent(*(part[:, 1] for part in seen.latent))
    steps = T - 2
    noise = core.noise(rng.key(5), steps, B)
    ahead = tf.transpose(actions[:, 2:], (1, 0, 2))  # [H, B, A]
    dreamt = core.imagine(start, lambda _, t: ahead[t], noise)
    h, z = start
    for t in range(steps):
        np.testing.assert_allclose(dreamt.latent.deterministic[t], h, atol=1e-6)
        np.testing.assert_array_equal(dreamt.latent.stochastic[t], z)
        h = core.forward(Latent(h, z), ahead[t])
        z = core.sample(core.guess(h), noise[t])
    np.testing.assert_allclose(dreamt.latent.deterministic[steps], h, atol=1e-6)
    np.testing.assert_array_equal(dreamt.actions, ahead)
    # `observe` with the prior in the posterior's place and the same noise goes the same way.
    blind = _core(core.sizes)
    for mine, theirs in zip(blind.variables, core.variables, strict=True):
        mine.assign(theirs)
    blind.recognise = lambda h, _: blind.guess(h)
    key = rng.key(5)
    watched = blind.observe(start, tokens[:, 2:], actions[:, 2:], first[:, 2:], key)
    for part, whole in zip(watched.latent, dreamt.latent, strict=True):
        np.testing.assert_allclose(tf.transpose(part, (1, 0, 2)), whole[1:], atol=1e-6)
    np.testing.assert_allclose(watched.prior, watched.posterior, atol=1e-6)


def _gradients(core, term, free_nats=0.0):
    tokens, actions, first = _data()
    with tf.GradientTape() as tape:
        seen = core.observe(core.initial(B), tokens, actions, first, rng.key(0))
        tape.watch((seen.posterior, seen.prior))
        found = losses.divergence(seen.posterior, seen.prior, 0.01, free_nats)
        loss = tf.reduce_sum(getattr(found, term))
    return [
        np.zeros(1) if gradient is None else np.asarray(gradient)
        for gradient in tape.gradient(
            loss,
            [seen.posterior, seen.prior],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
    ]


def test_each_divergence_term_trains_its_own_side_only(core):
    posterior, prior = _gradients(core, "dynamics")
    assert (posterior == 0.0).all()
    assert np.abs(prior).max() > 1e-3
    posterior, prior = _gradients(core, "representation")
    assert (prior == 0.0).all()
    assert np.abs(posterior).max() > 1e-3


@pytest.mark.parametrize("term", ["dynamics", "representation"])
def test_below_the_free_nats_nothing_moves(core, term):
    for gradient in _gradients(core, term, free_nats=100.0):
        assert (gradient == 0.0).all()


def test_the_networks_of_the_two_sides_get_only_their_terms(core):
    """Parameters, not only logits: the posterior's network is blind to the dynamics term of step 0."""
    tokens, actions, first = _data()
    for term, idle, busy in (
        ("dynamics", core.posterior, core.prior),
        ("representation", core.prior, core.posterior),
    ):
        with tf.GradientTape() as tape:
            seen = core.observe(core.initial(B), tokens[:, :1], actions[:, :1], first[:, :1], rng.key(0))
            loss = tf.reduce_sum(getattr(losses.divergence(seen.posterior, seen.prior, 0.01, 0.0), term))
        variables = [v.value for side in (idle, busy) for v in side.trainable_variables]
        found = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        count = len(idle.trainable_variables)
        assert all((np.asarray(g) == 0.0).all() for g in found[:count]), term
        assert max(np.abs(g).max() for g in found[count:]) > 1e-4, term


def test_the_samples_carry_a_gradient_to_the_posterior_through_time(core):
    tokens, actions, first = _data()
    watched = tf.constant(tokens)
    with tf.GradientTape() as tape:
        tape.watch(watched)
        seen = core.observe(core.initial(B), watched, actions, first, rng.key(0))
        loss = tf.reduce_sum(tf.square(seen.latent.deterministic[:, -1]))
    gradient = tape.gradient(loss, watched).numpy()
    # h_T depends on the tokens of earlier steps through sampled states alone.
    assert all(np.abs(gradient[:, t]).max() > 0.0 for t in range(T - 1))
    assert (gradient[:, -1] == 0.0).all()


def test_eager_graph_and_xla_see_the_same(core):
    tokens, actions, first = _data()
    start = core.initial(B)
    noise = core.noise(rng.key(2), 3, B)

    def run():
        seen = core.observe(start, tf.constant(tokens), tf.constant(actions), tf.constant(first), rng.key(0))
        last = Latent(*(part[:, -1] for part in seen.latent))
        dream = core.imagine(last, lambda _, t: tf.one_hot(tf.repeat(t % A, B), A), noise)
        return seen.posterior, dream.latent.deterministic

    eager = run()
    for jit in (False, True):
        for one, two in zip(eager, tf.function(run, jit_compile=jit, autograph=False)(), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-5)


def test_a_new_cell_remembers_and_blocks_keep_apart():
    core = _core(NANO._replace(blocks=4))
    h = np.random.default_rng(0).normal(size=(1, 16)).astype(np.float32)
    cell = core.cell
    # With the shared input cut off, a block of h' depends on its own block of h alone (the norm, which
    # divides by the size of the whole state, set aside).
    cell.norm.call = lambda x: x
    for layer in cell.inputs:
        for variable in layer.variables:
            variable.assign(tf.zeros_like(variable))
    z, a = np.zeros((1, 16), np.float32), np.zeros((1, A), np.float32)
    before = cell.call(h, z, a).numpy().reshape(4, 4)
    h[0, :4] += 1.0
    after = cell.call(h, z, a).numpy().reshape(4, 4)
    np.testing.assert_array_equal(before[1:], after[1:])
    assert np.abs(before[0] - after[0]).max() > 0.1
