"""Parameters of MuZero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from models import configuration
from models.configuration import Above, AtLeast, Between


@dataclass(frozen=True)
class Config(configuration.Config):
    """Steps are real steps (transitions) of the environment, summed over its sub-environments."""

    env_steps: Annotated[int, AtLeast(1)] = 12_000
    """Real steps of training."""
    warmup_steps: Annotated[int, AtLeast(1)] = 1_000
    """Steps of uniformly random actions before learning; observations and rewards are scaled by them."""
    gather: Literal["search", "random"] = "random"
    """How actions are chosen after the warm-up: by a search with noise at its root, or still at random, the
    policy being learned from reanalysis alone. Random is for markets, whose next bar does not depend on the
    action: an agent that has learned to stay out sees no more rewards to learn from."""
    replay_capacity: Annotated[int, AtLeast(2)] = 50_000
    """Rows kept; older ones are overwritten: the rolling window of what is learned from."""
    updates_per_step: Annotated[float, Above(0)] = 0.2
    """The train ratio: gradient updates a real step."""
    batch_size: Annotated[int, AtLeast(1)] = 64
    """Unrolled stretches an update."""

    history: Annotated[int, AtLeast(1)] = 1
    """Observations that the representation sees, the present one included. One is enough where observations
    are themselves summaries of the past, as a market's features are."""
    encoder: Literal["window", "gru"] = "window"
    """Past observations side by side, or one after the other through a recurrent cell."""
    latent: Annotated[int, AtLeast(1)] = 32
    hidden: Annotated[int, AtLeast(1)] = 64
    """Units of the networks' layers."""
    blocks: Annotated[int, AtLeast(0)] = 1
    """Residual blocks in the representation and in the dynamics."""
    action_gate: bool = True
    """The action also multiplies the units of the dynamics' first layer."""
    value_limit: Annotated[float, Above(0)] = 20.0
    """Ends of the value's support, after the transform h, in scaled rewards."""
    value_bins: Annotated[int, AtLeast(3)] = 81
    reward_limit: Annotated[float, Above(0)] = 8.0
    """Ends of the reward's support, after the transform h, in scaled rewards."""
    reward_bins: Annotated[int, AtLeast(3)] = 33

    chance_outcomes: Annotated[int, AtLeast(0)] = 0
    """Outcomes that the model tells apart after each action, learned from what came; the search then has
    chance nodes (and needs `search: puct`). 0 is a model in which the next state follows from the action."""
    chance_weight: Annotated[float, AtLeast(0)] = 1.0
    """Of the outcomes' distribution and code in the loss."""

    search: Literal["gumbel", "puct"] = "gumbel"
    """Sequential Halving over improved policies, or PUCT with Dirichlet noise."""
    simulations: Annotated[int, AtLeast(0)] = 25
    """A search; 0 acts by the policy head alone."""
    budget_ms: Annotated[float, Above(0)] | None = None
    """Milliseconds a decision may take: the largest search of 0, 8, 16, ... 256 simulations that keeps to it
    where it runs, measured at the first decision, in place of `simulations`. Decisions then depend on the
    machine."""
    train_simulations: Annotated[int, AtLeast(1)] = 16
    """A search while data are gathered or analysed anew."""
    max_depth: Annotated[int, AtLeast(1)] | None = None
    max_considered: Annotated[int, AtLeast(1)] = 16
    """Actions that a Gumbel search considers at the root."""
    value_scale: Annotated[float, Above(0)] = 0.1
    """c_scale of a Gumbel search: how much values count against the prior."""
    q_scale: Literal["tree", "siblings"] = "tree"
    """Values of a Gumbel search are compared on the scale of the whole tree, or of the actions at hand."""
    dirichlet_fraction: Annotated[float, Between(0, 1)] = 0.25
    dirichlet_alpha: Annotated[float, Above(0)] = 0.3
    c_init: Annotated[float, Above(0)] = 1.25
    c_base: Annotated[float, Above(0)] = 19652.0
    temperatures: Annotated[tuple[float, ...], AtLeast(0)] = (1.0, 0.5, 0.25)
    """Of visit counts in training, before 50 %, before 75 % and until the end of it (PUCT)."""
    sampled_actions: Annotated[int, AtLeast(2)] = 16
    """Actions drawn at each node of a Box or of a MultiDiscrete space of more than `joint_actions`."""
    joint_actions: Annotated[int, AtLeast(2)] = 64
    """A MultiDiscrete space of at most so many combinations is searched as a list of them."""
    sampling_temperature: Annotated[float, AtLeast(1)] = 1.5
    """Actions are drawn from policy^(1 / temperature) and their prior is corrected for it."""

    discount: Annotated[float, Between(0, 1)] = 0.97
    """A step."""
    unroll_steps: Annotated[int, AtLeast(1)] = 5
    """K: steps of the model that a gradient goes through."""
    n_step: Annotated[int, AtLeast(1)] = 5
    """Rewards summed before the target network's value."""
    value_weight: Annotated[float, AtLeast(0)] = 0.05
    reward_weight: Annotated[float, AtLeast(0)] = 1.0
    consistency_weight: Annotated[float, AtLeast(0)] = 0.0
    """Of the agreement of unrolled latents with those of later observations; 0 leaves it out."""
    entropy_weight: Annotated[float, AtLeast(0)] = 0.0
    """Of the policy's entropy; keeps a continuous policy wide."""
    learning_rate: Annotated[float, Above(0)] = 3e-3
    final_learning_rate: Annotated[float, AtLeast(0)] = 1e-3
    """Reached in a straight line at the end of training."""
    weight_decay: Annotated[float, AtLeast(0)] = 0.1
    """Of matrices only, apart from the gradient's moments."""
    gradient_clip: Annotated[float, Above(0)] = 5.0
    """Largest global norm of a gradient."""
    target_period: Annotated[int, AtLeast(1)] = 50
    """Updates between two copies of the weights into the target network."""

    priority_exponent: Annotated[float, Between(0, 1)] = 0.0
    """0 draws stretches uniformly, 1 in proportion to the last error of their value."""
    importance_exponent: Annotated[float, Between(0, 1)] = 1.0
    """How far the bias of drawing by priority is corrected."""
    reanalyse_ratio: Annotated[float, Between(0, 1)] = 0.08
    """Share of each batch that the target network searches anew, all K + 1 positions, before it is learned
    from. The new policies and values stay in the buffer. Searches are padded to a power of two: 5 of 64
    stretches at 6 positions fill 32."""

    compile: bool = True
    """Compile searches with XLA."""
    compile_update: bool = False
    """Compile the update with XLA."""
    checkpoint_steps: Annotated[int, AtLeast(1)] = 10_000
    """Real steps between two checkpoints; does not change the result."""
    log_steps: Annotated[int, AtLeast(1)] = 1_000
    """Real steps between two lines of metrics."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gather == "random" and self.reanalyse_ratio == 0.0:
            raise ValueError("gather: 'random' learns its policy from reanalysis; reanalyse_ratio is 0")
        if self.chance_outcomes == 1:
            raise ValueError("chance_outcomes: 1 outcome is no chance; allowed are 0 and 2 or more")
        if self.chance_outcomes and self.search != "puct":
            raise ValueError(f"search: {self.search!r} has no chance nodes; chance_outcomes needs 'puct'")

    @classmethod
    def nano(cls) -> Config:
        """The same code in seconds: for tests."""
        return cls(
            env_steps=160,
            gather="search",
            warmup_steps=64,
            replay_capacity=256,
            updates_per_step=0.1,
            batch_size=4,
            history=2,
            value_weight=0.25,
            consistency_weight=1.0,
            weight_decay=1e-4,
            learning_rate=2e-3,
            final_learning_rate=2e-4,
            latent=6,
            hidden=8,
            value_bins=11,
            reward_bins=5,
            simulations=6,
            train_simulations=4,
            max_considered=4,
            unroll_steps=2,
            n_step=2,
            target_period=4,
            reanalyse_ratio=0.25,
            compile=False,
            checkpoint_steps=50,
            log_steps=40,
        )
