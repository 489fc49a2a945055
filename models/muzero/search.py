"""The planners' tree search in MuZero's own model, compiled once for a shape, its settings and a batch."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import tensorflow as tf

from models import rng
from models.muzero import actions as arms
from models.muzero import networks
from models.muzero.config import Config
from models.muzero.networks import Shape, Weights
from models.planning import chance, mcts, selection
from models.planning import tree as trees


class Settings(NamedTuple):
    """What is static about a search; hashable."""

    search: str
    simulations: int
    max_depth: int | None
    max_considered: int
    value_scale: float
    q_scale: str
    dirichlet_fraction: float
    dirichlet_alpha: float
    c_init: float
    c_base: float
    discount: float


class Found(NamedTuple):
    """What a batch of searches says; values in scaled rewards."""

    action: tf.Tensor  # [B] int32, the arm
    code: tf.Tensor  # [B, W] its code
    policy: tf.Tensor  # [B, A] to act and to learn from
    codes: tf.Tensor  # [B, A, W] of all arms
    visits: tf.Tensor  # [B, A]
    q: tf.Tensor  # [B, A] 0 where not visited
    value: tf.Tensor  # [B] of the root after the search, under the policy to act by
    raw_value: tf.Tensor  # [B] the root's, before it
    depth: tf.Tensor  # [B] int32 of the deepest node; outcomes of chance count as steps
    line: tf.Tensor  # [B, 8] int32 the arm taken, then the most visited ones, -1 after the end


def settings_of(config: Config, simulations: int) -> Settings:
    """The search that `config` asks for, with a number of simulations."""
    return Settings(
        config.search,
        simulations,
        config.max_depth,
        config.max_considered,
        config.value_scale,
        config.q_scale,
        config.dirichlet_fraction,
        config.dirichlet_alpha,
        config.c_init,
        config.c_base,
        config.discount,
    )


def root_of(weights: Weights, window: tf.Tensor, shape: Shape, seed: Any) -> mcts.Root:
    """The model's word on the present: a root whose embedding is the latent and the arms' codes."""
    latent = networks.represent(weights, window, shape)  # [B, L]
    head, value = networks.predict(weights, latent)
    codes, prior = arms.draw(shape.actions, head, seed)
    return mcts.Root(prior, networks.to_scalar(value, shape.value_support), _embedding(latent, codes, shape))


def _embedding(latent: tf.Tensor, codes: tf.Tensor, shape: Shape) -> Any:
    return (latent, codes) if shape.actions.drawn else (latent,)


def _taken(action: tf.Tensor, embedding: Any, shape: Shape) -> tf.Tensor:
    """The codes `[B, W]` of the arms `action [B]` of a node."""
    if shape.actions.drawn:
        return tf.gather(embedding[1], action, batch_dims=1)
    return tf.one_hot(action, shape.actions.width)


def _arrive(
    weights: Weights, seed: Any, latent: tf.Tensor, code: tf.Tensor, shape: Shape
) -> tuple[mcts.Step, Any]:
    """g from `latent [B, L]` and `code`, then f."""
    latent, reward = networks.advance(weights, latent, code, shape)
    head, value = networks.predict(weights, latent)
    codes, prior = arms.draw(shape.actions, head, seed)
    step = mcts.Step(
        networks.to_scalar(reward, shape.reward_support),
        prior,
        networks.to_scalar(value, shape.value_support),
    )
    return step, _embedding(latent, codes, shape)


def model_of(shape: Shape) -> mcts.Recurrent:
    """g, then f, as the search calls them."""

    def recurrent(weights: Weights, seed: Any, action: tf.Tensor, embedding: Any) -> tuple[mcts.Step, Any]:
        return _arrive(weights, seed, embedding[0], _taken(action, embedding, shape), shape)

    return recurrent


def halves_of(shape: Shape, discount: float) -> tuple[chance.Decide, mcts.Recurrent]:
    """The two halves of a model with chance outcomes: to the afterstate, and on from it."""

    def decide(
        weights: Weights, seed: Any, action: tf.Tensor, embedding: Any
    ) -> tuple[chance.Afterstate, Any]:
        after = networks.follow(weights, embedding[0], _taken(action, embedding, shape), shape)
        value, outcomes = networks.foresee(weights, after)
        return chance.Afterstate(outcomes, networks.to_scalar(value, shape.value_support)), (
            after,
            *embedding[1:],
        )

    def happen(weights: Weights, seed: Any, outcome: tf.Tensor, embedding: Any) -> tuple[mcts.Step, Any]:
        code = tf.one_hot(outcome, shape.outcomes)
        step, following = _arrive(weights, seed, embedding[0], code, shape)
        return step._replace(discount=tf.fill(tf.shape(step.reward), discount)), following

    return decide, happen


@functools.lru_cache(maxsize=16)
def reader(shape: Shape) -> Any:
    """The function `(flat [P], window [B, H, D]) -> (policy head [B, P], value [B])`: no search at all."""

    def run(flat: tf.Tensor, window: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        weights = networks.unflatten(flat, shape)
        head, logits = networks.predict(weights, networks.represent(weights, window, shape))
        return head, networks.to_scalar(logits, shape.value_support)

    signature = [tf.TensorSpec((shape.size,)), tf.TensorSpec((None, shape.history, shape.observation))]
    return tf.function(run, input_signature=signature, autograph=False)


def _policy(
    weights: Weights, root: mcts.Root, shape: Shape, settings: Settings, seed: Any, noise: Any, heat: Any
) -> mcts.SearchOutput:
    """The search that `settings` ask for; `action_weights` are those of the arms alone."""
    common = {
        "params": weights,
        "simulations": settings.simulations,
        "seed": seed,
        "max_depth": settings.max_depth,
    }
    puct = {
        "dirichlet_fraction": noise * settings.dirichlet_fraction,
        "dirichlet_alpha": settings.dirichlet_alpha,
        "c_init": settings.c_init,
        "c_base": settings.c_base,
        "temperature": heat,
    }
    if shape.outcomes:
        decide, happen = halves_of(shape, settings.discount)
        return chance.stochastic_muzero_policy(
            root, decide, happen, outcomes=shape.outcomes, **puct, **common
        )
    if settings.search == "puct":
        return mcts.muzero_policy(root, model_of(shape), discount=settings.discount, **puct, **common)
    return mcts.gumbel_muzero_policy(
        root,
        model_of(shape),
        max_considered=settings.max_considered,
        gumbel_scale=noise,
        qtransform=functools.partial(
            selection.completed_by_mixed_value,
            value_scale=settings.value_scale,
            whole_tree=settings.q_scale == "tree",
        ),
        discount=settings.discount,
        **common,
    )


@functools.lru_cache(maxsize=32)
def searcher(shape: Shape, settings: Settings, batch: int, *, compiled: bool, whole: bool = False) -> Any:
    """The function `(flat [P], window [B, H, D], seed, noise, temperature) -> Found`.

    `noise` scales what is random at the root (1 to explore, 0 to act); `temperature` applies to PUCT. `whole`
    gives the tree too, batch first and without its embeddings.
    """

    def run(flat: tf.Tensor, window: tf.Tensor, seed: tf.Tensor, noise: tf.Tensor, heat: tf.Tensor) -> Any:
        weights = networks.unflatten(flat, shape)
        for_root, for_search = rng.split(seed, 2)
        root = root_of(weights, window, shape, for_root)
        found = _policy(weights, root, shape, settings, for_search, noise, heat)
        visits = found.root.child_visits[:, : shape.actions.arms]  # [B, A]
        q = found.root.q[:, : shape.actions.arms]
        value = found.root.value
        if settings.search == "gumbel":
            # Its visits are spread evenly over what it considered, so their mean is nobody's value.
            seen = found.action_weights * tf.cast(visits > 0, tf.float32)  # [B, A]
            value = tf.reduce_sum(seen * q, axis=-1) / tf.reduce_sum(seen, axis=-1)
        codes = (
            root.embedding[1] if shape.actions.drawn else tf.eye(shape.actions.width, batch_shape=(batch,))
        )
        said = Found(
            action=found.action,
            code=tf.gather(codes, found.action, batch_dims=1),
            policy=found.action_weights,
            codes=codes,
            visits=visits,
            q=q,
            value=value,
            raw_value=root.value,
            depth=tf.reduce_max(found.tree.depths, axis=1),
            line=trees.principal_line(found.tree, found.action, 8),
        )
        return (said, found.tree._replace(embeddings=())) if whole else said

    signature = [
        tf.TensorSpec((shape.size,)),
        tf.TensorSpec((batch, shape.history, shape.observation)),
        tf.TensorSpec((2,), tf.int32),
        tf.TensorSpec(()),
        tf.TensorSpec(()),
    ]
    return tf.function(run, input_signature=signature, jit_compile=compiled, autograph=False)
