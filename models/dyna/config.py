"""Parameters of the tabular Dyna agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from models import configuration
from models.configuration import AtLeast, Between


@dataclass(frozen=True)
class Config(configuration.Config):
    """Steps are real steps (transitions) of the environment, summed over its sub-environments."""

    env_steps: Annotated[int, AtLeast(1)] = 20_000
    """Real steps of training, the warm-up among them."""
    warmup_steps: Annotated[int, AtLeast(1)] = 4_000
    """Steps of uniformly random actions on which the cells are chosen; they are learned from as well."""

    planning_steps: Annotated[int, AtLeast(0)] = 10
    """k: simulated updates a real step; 0 is plain Q-learning."""
    memory: Annotated[int, AtLeast(1)] = 32
    """Outcomes the model keeps of each (cell, action); it draws among them. 1 is the textbook's model."""
    method: Literal["dyna_q", "prioritised"] = "dyna_q"
    """Which pairs are simulated: uniformly any that were tried, or those that change values most."""
    priority_threshold: Annotated[float, AtLeast(0)] = 1e-4
    """Prioritised: errors below it, in scaled reward units, are not queued."""
    bonus: Annotated[float, AtLeast(0)] = 0.0
    """kappa of Dyna-Q+: a simulated reward grows by kappa times the root of the steps since the pair was
    tried. 0 leaves it out."""

    learning_rate: Annotated[float, Between(0, 1, open_low=True)] = 0.1
    """alpha"""
    count_exponent: Annotated[float, Between(0, 1)] = 0.0
    """The rate of a pair is alpha divided by its number of real visits to this power (0: constant)."""
    discount: Annotated[float, Between(0, 1)] = 0.95
    """gamma, a step"""
    epsilon: Annotated[float, Between(0, 1)] = 0.1
    """Share of random actions after the warm-up."""

    max_cells: Annotated[int, AtLeast(1)] = 256
    """Largest number of cells that the observations are divided into."""
    min_visits: Annotated[float, AtLeast(1)] = 20.0
    """Warm-up steps that a cell must have on average."""
    max_bins: Annotated[int, AtLeast(2)] = 16
    """Bins of one input at most; an input with no more distinct values than this keeps each as a bin."""

    checkpoint_steps: Annotated[int, AtLeast(1)] = 10_000
    """Real steps between two checkpoints; does not change the result."""
    log_steps: Annotated[int, AtLeast(1)] = 1_000
    """Real steps between two lines of metrics."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bonus and self.method == "prioritised":
            raise ValueError(
                f"bonus: {self.bonus} is not allowed with method prioritised, which sweeps by error alone"
            )

    @classmethod
    def nano(cls) -> Config:
        """The same code in a blink: for tests."""
        return cls(
            env_steps=320,
            warmup_steps=128,
            planning_steps=2,
            memory=2,
            max_cells=16,
            min_visits=4.0,
            checkpoint_steps=100,
            log_steps=100,
        )
