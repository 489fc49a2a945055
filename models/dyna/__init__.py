"""Tabular Dyna-Q on cells chosen from data: learns from what happened and from what a table says would."""

from models.dyna.config import Config

__all__ = ["Config"]
