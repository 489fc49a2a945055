"""Planning with probabilistic ensembles: learns a model that knows when it does not know, and plans in it."""

from models.ensemble.config import Config

__all__ = ["Config"]
