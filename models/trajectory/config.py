"""Parameters of the trajectory transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from models import configuration
from models.configuration import Above, AtLeast, Between

Share = Between(0, 1)


@dataclass(frozen=True)
class Config(configuration.Config):
    """A *transition* is one step of the environment: target, observation, action and reward as tokens."""

    env_steps: Annotated[int, AtLeast(2)] = 24_000
    """Real steps to learn from: gathered with simple behaviours, or taken from recorded data at hand."""
    updates: Annotated[int, AtLeast(1)] = 600
    """Gradient steps of training."""
    updates_per_call: Annotated[int, AtLeast(1)] = 20
    """Gradient steps in one compiled call."""
    batch_size: Annotated[int, AtLeast(1)] = 32
    """Windows an update."""

    bins: Annotated[int, AtLeast(2)] = 100
    """V: most tokens of a dimension."""
    binning: Literal["quantile", "uniform"] = "quantile"
    """Where the bins of observations, rewards and returns are cut."""
    context: Annotated[int, AtLeast(0)] = 2
    """Earlier transitions the agent remembers."""
    horizon: Annotated[int, AtLeast(1)] = 2
    """Transitions planned ahead. Windows of training hold `context + horizon` transitions."""
    drawdown_token: bool = False
    """Also condition on the largest drawdown to come (of the summed reward)."""

    width: Annotated[int, AtLeast(1)] = 48
    """Of the embedding."""
    heads: Annotated[int, AtLeast(1)] = 4
    """Of attention; they divide the width."""
    layers: Annotated[int, AtLeast(1)] = 2
    dropout: Annotated[float, Between(0, 1, open_high=True)] = 0.1
    """Share of a block's outputs left out in training."""
    learning_rate: Annotated[float, Above(0)] = 2e-3
    final_learning_rate: Annotated[float, AtLeast(0)] = 1e-4
    """Reached along a cosine at the last update."""
    warmup_updates: Annotated[int, AtLeast(0)] = 40
    """Updates over which the rate rises from zero."""
    weight_decay: Annotated[float, AtLeast(0)] = 0.1
    """Times the learning rate, of kernels only: not of biases, gains or embeddings."""
    gradient_clip: Annotated[float, Above(0)] = 1.0
    """Largest global norm of a gradient."""
    action_weight: Annotated[float, AtLeast(0)] = 5.0
    reward_weight: Annotated[float, AtLeast(0)] = 10.0
    value_weight: Annotated[float, AtLeast(0)] = 10.0
    """Weights of these tokens in the loss; an observation's is 1."""

    discount: Annotated[float, Between(0, 1, open_low=True)] = 0.97
    """A transition."""
    return_steps: Annotated[int, AtLeast(1)] = 48
    """Rewards that a return-to-go sums; where a record is cut before, the return is unknown, not small."""
    target_dropout: Annotated[float, Share] = 0.5
    """Share of training windows whose target is hidden, so that one model plans with and without one."""

    mode: Literal["beam", "condition"] = "beam"
    """Plan by beam search, or act greedily on the target alone as a Decision Transformer does."""
    target: Annotated[float, Share] | None = None
    """Quantile of the recorded returns to ask for; null asks for nothing. `condition` needs one."""
    target_drawdown: Annotated[float, Share] | None = None
    """Quantile of the recorded drawdowns to stay within; needs `drawdown_token`."""
    plan_every: Annotated[int, AtLeast(1)] = 2
    """Steps between two plans; the plan is followed in between. At most the horizon."""
    beam_width: Annotated[int, AtLeast(1)] = 8
    beam_expand: Annotated[int, AtLeast(1)] = 5
    """Actions tried from each beam."""
    action_cdf: Annotated[float, Between(0, 1, open_low=True)] = 0.99
    """Only the likeliest actions, up to this probability together, are tried."""
    observation_top_k: Annotated[int, AtLeast(1)] = 1
    """Observation tokens are drawn from this many; 1 takes the likeliest."""
    beam_score: Literal["return", "log_probability", "mixture", "target"] = "mixture"
    """What ranks the beams: the foreseen return; imitation; both; or how likely the target becomes."""
    likelihood_weight: Annotated[float, AtLeast(0)] = 0.03
    """Of `mixture`: return (in units of the recorded returns' deviation) plus this times log-probability;
    of `target` likewise, after the log-likelihood of the target. 0 trusts the model wherever it goes."""
    decode: Literal["expectation", "quantile"] = "expectation"
    """How a distribution over reward or value tokens becomes a number."""
    decode_quantile: Annotated[float, Share] = 0.5

    compile: bool = False
    """Compile the plan with XLA: it then takes a third of the time, but first about 10 s of compiling."""
    checkpoint_updates: Annotated[int, AtLeast(1)] = 200
    """Updates between two checkpoints; does not change the result."""
    log_updates: Annotated[int, AtLeast(1)] = 20
    """Updates between two lines of metrics."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise ValueError(f"width: {self.width!r} is not allowed; it must be a multiple of heads")
        if self.plan_every > self.horizon:
            raise ValueError(
                f"plan_every: {self.plan_every!r} is not allowed; it must be at most the horizon"
            )
        if self.mode == "condition" and self.target is None:
            raise ValueError("target: None is not allowed; mode 'condition' needs a quantile in [0, 1]")
        if self.beam_score == "target" and self.target is None:
            raise ValueError("target: None is not allowed; beam_score 'target' needs a quantile in [0, 1]")
        if self.target_drawdown is not None and not self.drawdown_token:
            raise ValueError(
                f"target_drawdown: {self.target_drawdown!r} is not allowed; it must be null without "
                "drawdown_token"
            )

    @classmethod
    def nano(cls) -> Config:
        """The same code in seconds: for tests."""
        return cls(
            env_steps=256,
            updates=12,
            updates_per_call=3,
            batch_size=4,
            bins=8,
            context=1,
            horizon=2,
            width=8,
            heads=2,
            layers=1,
            warmup_updates=2,
            return_steps=8,
            plan_every=1,
            beam_width=2,
            beam_expand=2,
            checkpoint_updates=3,
            log_updates=3,
        )
