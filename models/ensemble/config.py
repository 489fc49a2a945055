"""Parameters of the ensemble agent: the model, the planner, and when not to follow the plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from models import configuration
from models.configuration import Above, AtLeast, Between


@dataclass(frozen=True)
class Config(configuration.Config):
    """Steps are real steps (transitions) of the environment, summed over its sub-environments."""

    env_steps: Annotated[int, AtLeast(1)] = 12_000
    """Real steps of training, the warm-up among them."""
    warmup_steps: Annotated[int, AtLeast(1)] = 8_000
    """Steps of uniformly random actions before the first fit."""
    fit_steps: Annotated[int, AtLeast(1)] = 4_000
    """Real steps between two fits of the model."""
    epsilon: Annotated[float, Between(0, 1)] = 0.2
    """Share of uniformly random actions among those collected after the warm-up."""

    members: Annotated[int, AtLeast(1)] = 5
    elites: Annotated[int, AtLeast(1)] = 5
    """Members that plan: the best on held-out data; at most `members`."""
    hidden: Annotated[tuple[int, ...], AtLeast(1)] = ()
    """Widths of each member's hidden layers; none makes it linear, which faint edges and few bars want."""
    activation: Literal["silu", "tanh", "relu"] = "silu"
    interactions: bool = True
    """Show the networks the products of observation and action as well; choices then count as ordered."""
    learning_rate: Annotated[float, Above(0)] = 3e-3
    weight_decay: Annotated[float, AtLeast(0)] = 0.3
    """Share of the kernels, times the learning rate, that an update takes away."""
    reward_share: Annotated[float, Between(0, 1, open_high=True)] = 0.5
    """Weight of the reward in the likelihood that is learned and stopped by; the changes of the observation
    share the rest. 0 counts it as one output among all."""
    batch_size: Annotated[int, AtLeast(1)] = 128
    """Transitions an update and member."""
    updates_per_round: Annotated[int, AtLeast(1)] = 64
    """Updates between two looks at the held-out data; one compiled call."""
    max_rounds: Annotated[int, AtLeast(1)] = 40
    """Rounds of a fit at most."""
    patience: Annotated[int, AtLeast(1)] = 3
    """Rounds in which no member improves before a fit ends."""
    improvement: Annotated[float, AtLeast(0)] = 1e-3
    """What counts as better on held-out data: nats an output."""
    holdout: Annotated[float, Between(0, 0.5, open_low=True)] = 0.15
    """Share of the transitions that no member trains on."""
    holdout_block: Annotated[int, AtLeast(1)] = 16
    """Consecutive steps of an environment that are held out, or not, together: neighbours are too much alike
    to judge each other."""
    holdout_rows: Annotated[int, AtLeast(8)] = 512
    """Held-out transitions that are looked at, drawn anew for each fit."""

    planner: Literal["cem", "icem", "shooting"] = "cem"
    horizon: Annotated[int, AtLeast(1)] = 5
    """H, steps planned ahead; 1 is greedy."""
    samples: Annotated[int, AtLeast(1)] = 32
    """Candidate sequences an iteration."""
    iterations: Annotated[int, AtLeast(1)] = 2
    elite_samples: Annotated[int, AtLeast(1)] = 6
    """Candidates that the cross-entropy method is fitted to."""
    momentum: Annotated[float, Between(0, 1)] = 0.1
    """Share of the old distribution that each iteration keeps."""
    particles: Annotated[int, AtLeast(1)] = 1
    """Particles a member and candidate."""
    propagation: Literal["ts1", "tsinf", "mean"] = "tsinf"
    """Particles change members at every step (ts1) or never (tsinf); `mean`: never, and without noise."""
    discount: Annotated[float, Between(0, 1)] = 1.0
    """A step of the plan."""
    warm_start: bool = True
    """Start each search from the last plan, one step on."""
    disagreement_penalty: Annotated[float, AtLeast(0)] = 0.0
    """MOPO's lambda: taken from a planned reward times the largest predicted deviation among members, both in
    standard deviations of the reward."""

    gate_quantile: Annotated[float, Between(0, 1, open_low=True)] = 0.99
    """The plan is followed only where the members disagree less than on this share of held-out data;
    1 switches the gate off."""
    confidence: Annotated[float, AtLeast(0)] = 5.0
    """The plan must beat doing nothing (the neutral action throughout) by this many standard deviations of
    the members' opinions on it; 0 switches this off."""
    confidence_to_stay: Annotated[float, Between(0, 1)] = 0.5
    """Share of `confidence` that is enough to go on in the direction of the last action, as seen from the
    neutral one; choices count as ordered."""
    neutral: tuple[float, ...] | None = None
    """The action that is taken instead (in units of a Box, or as indices from 0): by default nothing, which
    is the point of a Box nearest to zero, and the middle of a list of choices."""

    fallback: Literal["neutral", "dqn", "dyna"] = "neutral"
    """Who acts where the plan is not followed: nobody (the neutral action), or an agent of that family that
    has learned inside the model (deep Dyna)."""
    acting: Literal["plan", "policy"] = "plan"
    """Follow the plan where the gate lets it, or always the policy that learned inside the model."""
    dream_steps: Annotated[int, AtLeast(1)] = 20_000
    """Simulated steps that this policy learns from."""
    dream_envs: Annotated[int, AtLeast(1)] = 32
    """Dreams that it walks through side by side."""
    dream_episode: Annotated[int, AtLeast(1)] = 16
    """Steps of a dream; it starts from an observation that was really made."""

    regime_rule: Literal["off", "model", "given"] = "off"
    """Whether horizon and size follow the regime: told by the model's own predictions, or by two inputs."""
    regime_columns: tuple[int, ...] = ()
    """Given: inputs of the observation, counted from 0, that measure the strength of trends and the noise."""
    trend_quantile: Annotated[float, Between(0, 0.5, open_low=True)] = 0.33
    """Above all but this share of held-out data is a trend (the whole horizon), below this share is mean
    reversion (a third of it), between them two thirds."""
    calm_quantile: Annotated[float, Between(0, 1, open_low=True)] = 0.9
    """Noise above this share of held-out data is turbulence: the horizon is halved, positions are smaller."""
    turbulent_size: Annotated[float, Between(0, 1)] = 0.5
    """What is left in turbulence of an action's distance from the neutral one; choices count as ordered."""

    compile: bool = True
    """Compile fits and plans with XLA."""
    replay_capacity: Annotated[int, AtLeast(2)] = 50_000
    """Rows kept; older ones are overwritten."""
    checkpoint_steps: Annotated[int, AtLeast(1)] = 2_000
    """Real steps between two checkpoints; does not change the result."""
    log_steps: Annotated[int, AtLeast(1)] = 500
    """Real steps between two lines of metrics."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, most in (("elites", "members"), ("elite_samples", "samples")):
            if getattr(self, name) > getattr(self, most):
                raise ValueError(
                    f"{name}: {getattr(self, name)} is not allowed; it must be at most {most}, "
                    f"{getattr(self, most)}"
                )
        if self.acting == "policy" and self.fallback == "neutral":
            raise ValueError(
                'fallback: "neutral" is not allowed with acting policy; it must be the family that learns'
            )
        if self.regime_rule == "given" and len(self.regime_columns) != 2:
            raise ValueError(
                f"regime_columns: {self.regime_columns} is not allowed with regime_rule given; it must be "
                "two inputs, of the trend and of the noise"
            )
        if self.regime_rule == "model" and self.horizon < 3:
            raise ValueError(
                f"horizon: {self.horizon} is not allowed with regime_rule model; it must be at least 3"
            )

    @classmethod
    def nano(cls) -> Config:
        """The same code in seconds: for tests."""
        return cls(
            env_steps=160,
            warmup_steps=64,
            fit_steps=48,
            members=3,
            elites=2,
            hidden=(8,),
            batch_size=16,
            updates_per_round=4,
            max_rounds=3,
            holdout_rows=16,
            holdout_block=4,
            dream_steps=320,
            dream_envs=4,
            horizon=3,
            samples=8,
            elite_samples=3,
            compile=False,
            checkpoint_steps=50,
            log_steps=50,
        )
