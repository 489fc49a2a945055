"""World models: compress what is seen, dream on, and evolve a small controller in the dream."""

from models.world_model.config import Config

__all__ = ["Config"]
