"""Trajectories as sentences: a causal transformer, planned by beam search or steered by a target."""

from models.trajectory.config import Config

__all__ = ["Config"]
