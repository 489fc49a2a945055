"""Parameters of the Dreamer agent and the sizes of its networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from models import configuration
from models.configuration import Above, AtLeast, Between

SizeName = Literal["nano", "tiny", "XS", "S", "M"]


class Sizes(NamedTuple):
    """Widths of all networks."""

    deterministic: int  # units of the recurrent state
    units: int  # of every dense layer
    layers: int  # hidden layers of encoder and heads; the RSSM's own networks have one
    groups: int  # categorical variables of the stochastic state
    classes: int  # of each of them
    bins: int  # of a two-hot head
    reach: float  # the outermost bins are symexp of it
    blocks: int  # of the recurrent matrix; 1 is a plain GRU

    @property
    def stochastic(self) -> int:
        """Width of the stochastic state, laid flat."""
        return self.groups * self.classes

    @property
    def feature(self) -> int:
        """Width of what the heads see: both states."""
        return self.deterministic + self.stochastic


# XS, S and M are those of the 2023 paper (Hafner et al., table B.1).
SIZES: dict[str, Sizes] = {
    "nano": Sizes(16, 16, 1, 4, 4, 41, 6.0, 1),
    "tiny": Sizes(64, 64, 1, 4, 32, 63, 6.0, 1),
    "XS": Sizes(256, 256, 1, 32, 32, 255, 20.0, 1),
    "S": Sizes(512, 512, 2, 32, 32, 255, 20.0, 1),
    "M": Sizes(1024, 640, 3, 32, 32, 255, 20.0, 1),
}


@dataclass(frozen=True)
class Config(configuration.Config):
    """Steps are real steps (transitions) of the environment, summed over its sub-environments."""

    env_steps: Annotated[int, AtLeast(1)] = 16_000
    """Real steps of training."""
    warmup_steps: Annotated[int, AtLeast(1)] = 2_000
    """Steps of uniformly random actions before learning; the reward scale is measured on them."""
    model_first: Annotated[float, Between(0, 1)] = 0.6
    """First share of the steps, in which the model alone learns, from a policy still random (paper: 0). One
    that learns in a model that knows nothing yet learns what acting costs, stops, and stays there."""
    replay_capacity: Annotated[int, AtLeast(2)] = 100_000
    """Rows kept; older ones are overwritten."""
    train_ratio: Annotated[float, Above(0)] = 16.0
    """Replayed steps a real step after the warm-up. Kept to exactly: learning and acting take turns."""
    batch_size: Annotated[int, AtLeast(1)] = 16
    """Replayed sequences an update."""
    batch_length: Annotated[int, AtLeast(2)] = 16
    """Steps of a replayed sequence, without the stored latent it starts from (paper: 16 times 64)."""

    size: SizeName = "tiny"
    """Widths of all networks; each may be set on its own below."""
    deterministic: Annotated[int | None, AtLeast(1)] = None
    units: Annotated[int | None, AtLeast(1)] = None
    layers: Annotated[int | None, AtLeast(1)] = None
    groups: Annotated[int | None, AtLeast(1)] = None
    classes: Annotated[int | None, AtLeast(2)] = None
    bins: Annotated[int | None, AtLeast(3)] = None
    """Odd."""
    reach: Annotated[float | None, Above(0)] = None
    """The outermost bins of a two-hot head are symexp of this, in scaled units; what lies beyond is cut."""
    blocks: Annotated[int | None, AtLeast(1)] = None
    """Blocks of the recurrent matrix; more than one takes the block-diagonal cell of the 2024 version."""

    learning_rate: Annotated[float, Above(0)] = 1e-3
    """The paper's 4e-5 is for millions of updates; a small model and a few hundred updates want more."""
    learning_warmup: Annotated[int, AtLeast(1)] = 50
    """Updates over which the learning rate rises in a straight line (paper: 1000)."""
    annealing: Annotated[float, Between(0, 1)] = 0.7
    """Last share of the updates, over which the learning rate falls in a line to zero (paper: none)."""
    clip: Annotated[float, Above(0)] = 0.3
    """Largest norm of a variable's gradient, as a share of the norm of the variable itself."""

    kl: Literal["dyn_rep", "balance"] = "dyn_rep"
    """Two scaled terms (DreamerV3) or one balanced term (DreamerV2)."""
    dynamics_scale: Annotated[float, AtLeast(0)] = 1.0
    representation_scale: Annotated[float, AtLeast(0)] = 0.1
    kl_balance: Annotated[float, Between(0, 1)] = 0.8
    """Share of the prior's term, for `balance`."""
    free_nats: Annotated[float, AtLeast(0)] = 1.0
    """Divergence, summed over the latents, below which neither term has a gradient."""
    unimix: Annotated[float, Between(0, 1, open_high=True)] = 0.01
    """Share of the uniform distribution in every categorical: prior, posterior and policy."""
    critic: Literal["two_hot", "squared"] = "two_hot"
    """A distribution over symexp-spaced bins (V3) or a number with squared error (V2)."""

    horizon: Annotated[int, AtLeast(1)] = 15
    """Imagined steps."""
    discount: Annotated[float, Between(0, 1, open_low=True)] = 0.95
    """A step; learned by the continue head, so that imagination carries it (paper: 0.997)."""
    lambda_: Annotated[float, Between(0, 1)] = 0.95
    entropy: Annotated[float, AtLeast(0)] = 1e-2
    """Weight of the policy's entropy, in nats, against normalised advantages (paper: 3e-4)."""
    return_rate: Annotated[float, Between(0, 1, open_low=True)] = 0.01
    """Rate of the running 5th and 95th percentile of imagined returns."""
    slow_rate: Annotated[float, Between(0, 1, open_low=True)] = 0.02
    """Share of the critic that goes into the slow critic at each update."""
    slow_regulariser: Annotated[float, AtLeast(0)] = 1.0
    """Weight of the loss that holds the critic near the slow one."""
    slow_target: bool = False
    """Bootstrap from the slow critic instead of the critic itself."""
    replay_value_scale: Annotated[float, AtLeast(0)] = 0.3
    """Weight of the critic's loss on replayed steps; it is the one critic loss that shapes the latents."""

    reward_scale: Annotated[float | None, Above(0)] = None
    """Rewards are multiplied by this; by default one over their root mean square in the warm-up."""

    imagined_paths: Annotated[int, AtLeast(0)] = 16
    """Paths imagined at each decision for the tail risk in `info`; 256 or more for figures to report."""
    tail: Annotated[float, Between(0, 1, open_low=True, open_high=True)] = 0.05
    """Share of the paths that is the tail."""
    shortfall_limit: Annotated[float | None, Above(0)] = None
    """Imagined shortfall over the horizon, in reward units, above which the action is scaled down."""
    neutral_choice: Annotated[int, AtLeast(0)] = 0
    """For discrete branches, whose choices must then be in order: the one that risks nothing."""

    checkpoint_steps: Annotated[int, AtLeast(1)] = 4_000
    """Real steps between two checkpoints; does not change the result."""
    log_steps: Annotated[int, AtLeast(1)] = 1_000
    """Real steps between two lines of metrics."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sizes.bins % 2 == 0:
            raise ValueError(f"bins: {self.bins!r} is not allowed; it must be odd, for a bin at zero")
        if self.sizes.deterministic % self.sizes.blocks:
            raise ValueError(
                f"blocks: {self.sizes.blocks} is not allowed; it must divide the "
                f"{self.sizes.deterministic} units of the deterministic state"
            )
        if self.shortfall_limit is not None and self.imagined_paths == 0:
            raise ValueError("imagined_paths: 0 is not allowed with a shortfall_limit")

    @property
    def sizes(self) -> Sizes:
        """The widths of `size` with those set on their own."""
        base = SIZES[self.size]
        chosen = {name: getattr(self, name) for name in Sizes._fields}
        return base._replace(**{name: value for name, value in chosen.items() if value is not None})

    def updates(self, env_steps: int) -> int:
        """Updates that are due after so many steps."""
        replayed = max(0, env_steps - self.warmup_steps) * self.train_ratio
        return int(replayed / (self.batch_size * self.batch_length))

    @property
    def dreams_from(self) -> int:
        """Steps after which actor and critic learn too."""
        return max(self.warmup_steps, round(self.model_first * self.env_steps))

    @property
    def kl_scales(self) -> tuple[float, float]:
        """Weights of the prior's and of the posterior's term."""
        if self.kl == "balance":  # DreamerV2, algorithm 2
            return self.kl_balance, 1.0 - self.kl_balance
        return self.dynamics_scale, self.representation_scale

    @classmethod
    def nano(cls) -> Config:
        """The same code in seconds: for tests."""
        return cls(
            env_steps=160,
            warmup_steps=64,
            replay_capacity=256,
            train_ratio=4.0,
            batch_size=4,
            batch_length=8,
            size="nano",
            horizon=4,
            imagined_paths=8,
            checkpoint_steps=60,
            log_steps=50,
        )
