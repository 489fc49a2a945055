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
from models.planning import mcts, selection
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
    depth: tf.Tensor  # [B] int32 of the deepest node
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


def model_of(shape: Shape) -> mcts.Recurrent:
    """g, then f, as the search calls them."""

    def recurrent(weights: Weights, seed: Any, action: tf.Tensor, embedding: Any) -> tuple[mcts.Step, Any]:
        latent = embedding[0]
        code = tf.one_hot(action, shape.actions.width)
        if shape.actions.drawn:
            code = tf.gather(embedding[1], action, batch_dims=1)  # [B, W]
        latent, reward = networks.advance(weights, latent, code, shape)
        head, value = networks.predict(weights, latent)
        codes, prior = arms.draw(shape.actions, head, seed)
        step = mcts.Step(
            networks.to_scalar(reward, shape.reward_support),
            prior,
            networks.to_scalar(value, shape.value_support),
        )
        return step, _embedding(latent, codes, shape)

    return recurrent


@functools.lru_cache(maxsize=16)
def reader(shape: Shape) -> Any:
    """The function `(flat [P], window [B, H, D]) -> (policy head [B, P], value [B])`: no search at all."""

    def run(flat: tf.Tensor, window: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        weights = networks.unflatten(flat, shape)
        head, logits = networks.predict(weights, networks.represent(weights, window, shape))
        return head, networks.to_scalar(logits, shape.value_support)

    signature = [tf.TensorSpec((shape.size,)), tf.TensorSpec((None, shape.history, shape.observation))]
    return tf.function(run, input_signature=signature, autograph=False)


@functools.lru_cache(maxsize=32)
def searcher(shape: Shape, settings: Settings, batch: int, *, compiled: bool) -> Any:
    """The function `(flat [P], window [B, H, D], seed, noise, temperature) -> Found`.

    `noise` scales what is random at the root (1 to explore, 0 to act); `temperature` applies to PUCT.
    """

    def run(flat: tf.Tensor, window: tf.Tensor, seed: tf.Tensor, noise: tf.Tensor, heat: tf.Tensor) -> Found:
        weights = networks.unflatten(flat, shape)
        for_root, for_search = rng.split(seed, 2)
        root = root_of(weights, window, shape, for_root)
        common = {
            "params": weights,
            "simulations": settings.simulations,
            "seed": for_search,
            "max_depth": settings.max_depth,
            "discount": settings.discount,
        }
        if settings.search == "gumbel":
            found = mcts.gumbel_muzero_policy(
                root,
                model_of(shape),
                max_considered=settings.max_considered,
                gumbel_scale=noise,
                qtransform=functools.partial(
                    selection.completed_by_mixed_value,
                    value_scale=settings.value_scale,
                    whole_tree=settings.q_scale == "tree",
                ),
                **common,
            )
        else:
            found = mcts.muzero_policy(
                root,
                model_of(shape),
                dirichlet_fraction=noise * settings.dirichlet_fraction,
                dirichlet_alpha=settings.dirichlet_alpha,
                c_init=settings.c_init,
                c_base=settings.c_base,
                temperature=heat,
                **common,
            )
        value = found.root.value
        if settings.search == "gumbel":
            # Its visits are spread evenly over what it considered, so their mean is nobody's value.
            seen = found.action_weights * tf.cast(found.root.child_visits > 0, tf.float32)  # [B, A]
            value = tf.reduce_sum(seen * found.root.q, axis=-1) / tf.reduce_sum(seen, axis=-1)
        codes = (
            root.embedding[1] if shape.actions.drawn else tf.eye(shape.actions.width, batch_shape=(batch,))
        )
        return Found(
            action=found.action,
            code=tf.gather(codes, found.action, batch_dims=1),
            policy=found.action_weights,
            codes=codes,
            visits=found.root.child_visits,
            q=found.root.q,
            value=value,
            raw_value=root.value,
            depth=tf.reduce_max(found.tree.depths, axis=1),
            line=trees.principal_line(found.tree, found.action, 8),
        )

    signature = [
        tf.TensorSpec((shape.size,)),
        tf.TensorSpec((batch, shape.history, shape.observation)),
        tf.TensorSpec((2,), tf.int32),
        tf.TensorSpec(()),
        tf.TensorSpec(()),
    ]
    return tf.function(run, input_signature=signature, jit_compile=compiled, autograph=False)
