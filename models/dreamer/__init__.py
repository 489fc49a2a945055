"""Dreamer: a recurrent world model with categorical latents, and an actor-critic learning in its dreams."""

from models.dreamer.config import Config

__all__ = ["Config"]
