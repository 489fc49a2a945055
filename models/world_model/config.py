"""Parameters of the world model: its three parts, the dream and the reward."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Literal

from models import configuration
from models.configuration import Above, AtLeast, Between
from models.exposures import Exposures


@dataclass(frozen=True)
class Config(configuration.Config):
    """Steps are real steps of the environment, summed over its sub-environments."""

    env_steps: Annotated[int, AtLeast(64)] = 20_000
    """Real steps of training, those of the evaluation at its end included."""
    evaluation_steps: Annotated[int, AtLeast(1)] = 2_000
    """Of these, the last ones, taken by the finished controller: what its dreams are held against."""
    hold_probability: Annotated[float, Between(0, 1, open_high=True)] = 0.8
    """Chance that the random policy that gathers the data repeats its last action."""
    held_out: Annotated[float, Between(0, 0.5, open_low=True)] = 0.15
    """Share of the gathered steps, the last of them, that the models are judged on and never fitted to."""

    reward: Literal["auto", "learned", "exposure"] = "auto"
    """`learned`: the memory predicts the reward from latent, history and action, for any environment.
    `exposure`: the action is an exposure to assets whose returns the memory predicts, and the account is
    followed inside the dream: reward = log(1 + exposure x return - cost x turnover). `auto`: `exposure`
    where the environment tells what the next five settings say (`models.exposures`), else `learned`."""
    account_columns: Annotated[int, AtLeast(0)] = 0
    """`exposure`: trailing components of the observation that belong to the account. The first of them are
    the current exposures, one an asset. They are not compressed, nor predicted, but followed."""
    return_columns: Annotated[tuple[int, ...], AtLeast(0)] = ()
    """`exposure`: the components of the observation that show each asset's last return, in any unit; unit
    and cost rate are measured by least squares on the gathered rewards."""
    exposures: tuple[float, ...] = ()
    """`exposure`: what the discrete choices stand for, in the order of the actions; unused for a Box."""
    exposure_unit: Annotated[float, Above(0)] = 1.0
    """`exposure`: the exposure of an action of 1, for a Box."""
    gross_limit: Annotated[float, AtLeast(0)] = 0.0
    """`exposure`: exposures whose absolute sum is larger are scaled down to it; 0 is no limit."""
    drift: Annotated[float, Between(0, 1)] = 0.0
    """`exposure`: share of the mean return of the gathered steps that the dream keeps. A year of an asset
    says next to nothing of its drift, and a controller that dreams of it learns to sit on a position; with 0
    it has to time what it earns."""
    risk_aversion: Annotated[float, AtLeast(0)] = 1.0
    """`exposure`: weight of the variance in the dreamed reward; 1 is that of the expected logarithm."""

    latents: Annotated[int, AtLeast(1)] = 8
    """Length of the latent vector z."""
    vae_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (64,)
    """Widths of the encoder's layers; the decoder has them in reverse."""
    likelihood: Literal["gaussian", "student"] = "gaussian"
    """Of an observation given its latent; `student` has tails of a learned weight."""
    kl_floor: Annotated[float, AtLeast(0)] = 0.05
    """Nats a latent dimension below which its KL is not pressed further ("free bits")."""
    vae_epochs: Annotated[int, AtLeast(1)] = 12
    vae_batch: Annotated[int, AtLeast(1)] = 128
    vae_learning_rate: Annotated[float, Above(0)] = 2e-3

    units: Annotated[int, AtLeast(1)] = 32
    """Width of the LSTM."""
    components: Annotated[int, AtLeast(1)] = 5
    """K of the mixture."""
    mixture: Literal["joint", "per_dimension"] = "joint"
    """`joint`: components over the whole vector. `per_dimension`: an independent mixture each."""
    layer_norm: bool = False
    """Normalise the gates of the LSTM."""
    sequence_length: Annotated[int, AtLeast(2)] = 64
    """Steps that gradients go back."""
    rnn_epochs: Annotated[int, AtLeast(1)] = 24
    rnn_batch: Annotated[int, AtLeast(1)] = 16
    """Sequences an update."""
    rnn_learning_rate: Annotated[float, Above(0)] = 3e-3
    terminal_weight: Annotated[float, Above(0)] = 10.0
    """Weight of an ending in the loss of the continuation head; taken out again when dreaming."""
    gradient_clip: Annotated[float, Above(0)] = 1.0
    """Largest global norm of a gradient, of either model."""

    hidden: Annotated[int, AtLeast(0)] = 0
    """Width of the controller's hidden layer; 0 is a linear controller."""
    fitness: Literal["return", "sharpe"] = "return"
    """Mean dreamed reward a step, or that divided by its deviation."""
    evolution: Literal["full", "separable", "adaptive"] = "full"
    """Covariance of CMA-ES: full, diagonal, or full with a learning rate that adapts to noise."""
    population: Annotated[int, AtLeast(4)] = 64
    sigma: Annotated[float, Above(0)] = 0.3
    """First deviation of the controller's weights."""
    generations: Annotated[int, AtLeast(1)] = 80
    dreams: Annotated[int, AtLeast(1)] = 64
    """Dreams a candidate; the same ones for all candidates of a generation."""
    dream_steps: Annotated[int, AtLeast(1)] = 128
    tail: Annotated[float, Between(0, 1, open_low=True)] = 1.0
    """Share of its dreams, the worst of them, that a candidate is judged by; 1 takes all."""
    temperature: Annotated[float, Above(0)] = 1.0
    """Divides the mixture's logits and multiplies its variances; above 1 the dream is wilder."""
    reevaluate: Annotated[int, AtLeast(1)] = 10
    """Generations between two judgements of the mean and the best candidate on fresh dreams."""
    reevaluation_dreams: Annotated[int, AtLeast(1)] = 512

    regimes: Annotated[int, AtLeast(1)] = 3
    """States of the hidden Markov chain read off the latent path."""
    regime_stay: Annotated[float, AtLeast(1)] = 72.0
    """Steps that a visit to a regime takes at least, on average: what comes and goes within days is noise."""

    checkpoint_epochs: Annotated[int, AtLeast(1)] = 20
    """Epochs or generations between two checkpoints; does not change the result."""

    def settled(self, shown: Exposures | None) -> Config:
        """The configuration without `auto`, given what the environment tells of itself."""
        if self.reward != "auto":
            return self
        if shown is None:
            return dataclasses.replace(self, reward="learned")
        return dataclasses.replace(
            self,
            reward="exposure",
            account_columns=shown.account,
            return_columns=shown.returns,
            exposures=shown.levels,
            exposure_unit=shown.unit,
            gross_limit=shown.gross if math.isfinite(shown.gross) else 0.0,
        )

    @classmethod
    def nano(cls) -> Config:
        """The same code in a few seconds: for tests."""
        return cls(
            env_steps=480,
            evaluation_steps=80,
            latents=2,
            vae_hidden=(8,),
            vae_epochs=2,
            vae_batch=32,
            units=4,
            components=2,
            sequence_length=16,
            rnn_epochs=2,
            rnn_batch=4,
            population=6,
            generations=4,
            dreams=4,
            dream_steps=8,
            reevaluate=2,
            reevaluation_dreams=8,
            regimes=2,
            regime_stay=4.0,
            checkpoint_epochs=1,
        )
