"""The model-free yardstick: double Q-learning with replay, n-step returns and a target network."""

from models.dqn.config import Config

__all__ = ["Config"]
