"""MuZero: planning by tree search in a latent model learned end to end (Schrittwieser et al. 2020)."""

from models.muzero.config import Config

__all__ = ["Config"]
