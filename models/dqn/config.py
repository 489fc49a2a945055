"""Parameters of the Q-network agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from models import configuration
from models.configuration import Above, AtLeast, Between


@dataclass(frozen=True)
class Config(configuration.Config):
    """Steps are real steps (transitions) of the environment, summed over its sub-environments."""

    env_steps: Annotated[int, AtLeast(1)] = 60_000
    """Real steps of training."""
    warmup_steps: Annotated[int, AtLeast(1)] = 1_000
    """Steps of uniformly random actions before learning; the reward scale is measured on them."""
    replay_capacity: Annotated[int, AtLeast(2)] = 60_000
    """Rows kept; older ones are overwritten."""
    updates_per_step: Annotated[float, Above(0)] = 0.25
    """The train ratio: gradient updates a real step."""
    updates_per_call: Annotated[int, AtLeast(1)] = 16
    """Updates made by one compiled call; between two calls the policy stands still."""
    batch_size: Annotated[int, AtLeast(1)] = 64
    """Transitions an update."""

    hidden: Annotated[tuple[int, ...], AtLeast(1)] = (64, 64)
    """Widths of the hidden layers."""
    activation: Literal["relu", "tanh", "silu"] = "relu"
    discount: Annotated[float, Between(0, 1)] = 0.99
    """A step."""
    n_step: Annotated[int, AtLeast(1)] = 1
    """Rewards summed before the target network's value."""
    learning_rate: Annotated[float, Above(0)] = 3e-4
    final_learning_rate: Annotated[float, AtLeast(0)] = 1e-5
    """Reached in a straight line at the end of training."""
    gradient_clip: Annotated[float, Above(0)] = 10.0
    """Largest global norm of a gradient."""
    huber: Annotated[float, Above(0)] = 10.0
    """Error, in scaled reward units, beyond which the loss grows linearly. A small one learns medians where
    means are wanted: rare large losses then weigh too little."""
    target_rate: Annotated[float, Between(0, 1, open_low=True)] = 0.01
    """Share of the online weights that goes into the target network at each of its updates; 1 copies."""
    target_period: Annotated[int, AtLeast(1)] = 1
    """Gradient updates between two updates of the target network."""

    epsilon_start: Annotated[float, Between(0, 1)] = 1.0
    epsilon_end: Annotated[float, Between(0, 1)] = 0.05
    epsilon_steps: Annotated[int, AtLeast(1)] = 5_000
    """Real steps over which the share of random actions falls in a straight line."""

    priority_exponent: Annotated[float, Between(0, 1)] = 0.0
    """0 draws transitions uniformly, 1 in proportion to their last error (Schaul et al. 2016)."""
    importance_exponent: Annotated[float, Between(0, 1)] = 0.5
    """How far the bias of drawing by priority is corrected."""

    compile: bool = True
    """Compile the update with XLA."""
    checkpoint_steps: Annotated[int, AtLeast(1)] = 10_000
    """Real steps between two checkpoints; does not change the result."""
    log_steps: Annotated[int, AtLeast(1)] = 1_000
    """Real steps between two lines of metrics."""

    @classmethod
    def nano(cls) -> Config:
        """The same code in a second: for tests."""
        return cls(
            env_steps=320,
            warmup_steps=64,
            replay_capacity=256,
            updates_per_call=4,
            batch_size=8,
            hidden=(8,),
            n_step=3,
            learning_rate=1e-3,
            epsilon_steps=200,
            checkpoint_steps=100,
            log_steps=100,
        )
