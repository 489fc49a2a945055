"""Features of candles: definitions, their registry, the regular grid they need, and scaling."""

from pipelines.features import definitions as _definitions
from pipelines.features.grid import holes, to_grid
from pipelines.features.registry import (
    REGISTRY,
    Feature,
    FeatureError,
    Registry,
    compute,
    feature,
    resolve,
    warm_up,
)
from pipelines.features.scaling import Scaler

DEFAULT_FEATURES = _definitions.DEFAULT_FEATURES

__all__ = [
    "DEFAULT_FEATURES",
    "REGISTRY",
    "Feature",
    "FeatureError",
    "Registry",
    "Scaler",
    "compute",
    "feature",
    "holes",
    "resolve",
    "to_grid",
    "warm_up",
]
