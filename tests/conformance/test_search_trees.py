"""Whole search trees of a reference implementation, replayed without random numbers.

Every `*_tree.compact.json` of the folder is taken. A file lists the nodes of one tree in the order of their
expansion, with all that the model said there; the replay gives the model's words back and must expand the
same nodes in the same order. The tree is the first of a batch of three whose other elements may not take
some actions at the root: if they leaked, the first tree would differ.
"""

import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from models import rng
from models.planning import mcts, selection

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("CONFORMANCE_DATA", ROOT.parent / "shared" / "conformance"))
FILES = sorted(FOLDER.glob("*_tree.compact.json")) if FOLDER.is_dir() else []

NAMES = {"maxvisit_init": "visit_offset", "rescale_values": "rescale", "use_mixed_value": "mixed",
         "min_value": "low", "max_value": "high"}  # fmt: skip
TRANSFORMS = {
    "qtransform_by_parent_and_siblings": selection.by_parent_and_siblings,
    "qtransform_by_min_max": selection.by_bounds,
    "qtransform_completed_by_mix_value": selection.completed_by_mixed_value,
}


def policy_of(case):
    """The search that the file's own configuration describes."""
    config = case["algorithm_config"]
    kwargs = {NAMES.get(name, name): value for name, value in config["qtransform_kwargs"].items()}
    common = {
        "qtransform": functools.partial(TRANSFORMS[config["qtransform"]], **kwargs),
        "simulations": case["num_simulations"],
        "max_depth": config.get("max_depth"),
        "discount": case["env_config"]["discount"],
    }
    if case["algorithm"] == "gumbel_muzero":
        assert config["gumbel_scale"] == 0.0
        return functools.partial(
            mcts.gumbel_muzero_policy,
            gumbel_scale=0.0,
            max_considered=config["max_num_considered_actions"],
            **common,
        )
    assert case["algorithm"] == "muzero"
    assert config["dirichlet_fraction"] == 0.0
    return functools.partial(
        mcts.muzero_policy,
        dirichlet_fraction=0.0,
        dirichlet_alpha=config["dirichlet_alpha"],
        c_init=config["pb_c_init"],
        c_base=config["pb_c_base"],
        temperature=0.0,
        **common,
    )


def model_of(nodes, actions):
    """The recorded words as tables; a node that the file does not hold gets made-up ones."""
    logits = np.log(np.array([node["prior"] for node in nodes], np.float32))
    value = np.array([node["raw_value"] for node in nodes], np.float32)
    reward = np.array([node["reward"] for node in nodes], np.float32)
    following = np.full((len(nodes) + 1, actions), len(nodes), np.int32)
    for place, node in enumerate(nodes[1:], 1):
        following[node["parent"], node["action"]] = place
    made_up = np.random.default_rng(0).normal(size=actions).astype(np.float32)
    logits = np.concatenate([logits, made_up[None]])
    value, reward = np.append(value, np.float32(0.7)), np.append(reward, np.float32(-0.2))

    def recurrent(params, seed, action, place):
        place = tf.gather_nd(following, tf.stack([place, action], axis=1))
        step = mcts.Step(tf.gather(reward, place), tf.gather(logits, place), tf.gather(value, place))
        return step, place

    root = mcts.Root(tf.repeat(logits[:1], 3, 0), tf.repeat(value[:1], 3, 0), tf.zeros(3, tf.int32))
    return root, recurrent


@pytest.mark.skipif(not FILES, reason=f"no *_tree.compact.json in {FOLDER.name}: set CONFORMANCE_DATA")
@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.removesuffix(".compact.json"))
def test_a_reference_tree_replays(path, jit):
    case = json.loads(path.read_text())
    nodes, actions = case["nodes"], case["num_actions"]
    root, recurrent = model_of(nodes, actions)
    recorded = {name: np.array([node[name] for node in nodes]) for name in nodes[0]}
    # The second element may not take the first one's favourite, the third only two actions.
    favourite = np.bincount(recorded["action"][1:][recorded["parent"][1:] == 0], minlength=actions).argmax()
    invalid = np.zeros((3, actions), bool)
    invalid[1, favourite] = True
    invalid[2, 2:] = True
    policy = policy_of(case)

    @tf.function(jit_compile=jit, autograph=False)
    def run(seed):
        return policy(root, recurrent, seed=seed, invalid_actions=tf.constant(invalid))

    found = run(rng.key(0))
    tree = found.tree
    for ours, theirs in (("parents", "parent"), ("actions", "action"), ("visits", "visit")):
        np.testing.assert_array_equal(getattr(tree, ours)[0], recorded[theirs], err_msg=ours)
    for ours, theirs in (("values", "value"), ("raw_values", "raw_value"), ("rewards", "reward")):
        np.testing.assert_allclose(getattr(tree, ours)[0], recorded[theirs], atol=1e-5, err_msg=ours)
    np.testing.assert_allclose(np.exp(tree.prior_logits[0]), recorded["prior"], atol=1e-6)
    # The others searched under their own masks, and all simulations are accounted for.
    for element in (1, 2):
        taken = np.asarray(tree.actions[element])[np.asarray(tree.parents[element]) == 0]
        assert not invalid[element][taken].any()
        assert int(tree.visits[element, 0]) == case["num_simulations"] + 1
    assert not np.array_equal(tree.actions[0], tree.actions[1])
    assert not np.array_equal(tree.actions[1], tree.actions[2])
    np.testing.assert_array_equal(np.where(invalid, found.action_weights, 0.0), 0.0)
    np.testing.assert_allclose(np.sum(found.action_weights, axis=1), 1.0, atol=1e-5)
