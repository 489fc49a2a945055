"""Scaling of features, fitted on the training rows of one fold and on nothing else.

A scaler is a pure function of the rows it is given: whoever fits it passes the training rows of the fold,
and the leak gate (`pipelines.checks.leaks.find_scaler_leaks`) shows that the rest has no say.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

METHODS = ("robust", "standard")
# The interquartile range of a normal distribution in standard deviations.
_NORMAL_IQR = 1.3489795003921634


@dataclass(frozen=True)
class Scaler:
    """`clip((x - centre) / scale)`: every column of the observation on a scale of its own.

    Attributes:
      names: the features, in order.
      centre: [F] or [S, F], the shape of one row of what it was fitted on.
      scale: the same shape, above zero.
      clip: values further from the centre than this many scales are cut to it.
      method: "robust" (median, interquartile range) or "standard" (mean, standard deviation).
    """

    names: tuple[str, ...]
    centre: Array
    scale: Array
    clip: float
    method: str

    @classmethod
    def fit(
        cls, rows: npt.ArrayLike, names: Sequence[str], *, method: str = "robust", clip: float = 5.0
    ) -> Scaler:
        """Fits on `rows` [N, F] or [N, S, F], the training rows of one fold.

        A column whose quartiles coincide (most of its values are the same) falls back to its standard
        deviation, and a constant one to 1, so that it becomes 0 rather than infinite.
        """
        values = np.asarray(rows, dtype=np.float64)
        if method not in METHODS:
            raise ValueError(f"scaling method {method!r} is unknown; allowed: {', '.join(METHODS)}")
        if not clip > 0:
            raise ValueError(f"clip is {clip}; it must be above zero")
        if values.ndim < 2 or values.shape[-1] != len(names) or len(values) == 0:
            raise ValueError(f"cannot fit {len(names)} features on rows of shape {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError("cannot fit a scaler on values that are not finite")
        deviation = values.std(axis=0)
        if method == "standard":
            centre, scale = values.mean(axis=0), deviation
        else:
            low, centre, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
            scale = (high - low) / _NORMAL_IQR
        magnitude = np.abs(values).max(axis=0)
        # Rounding leaves a constant column a deviation of some 1e-16 of its size, which is not a scale.
        usable, fallback = scale > 1e-12 * magnitude, deviation > 1e-12 * magnitude
        scale = np.where(usable, scale, np.where(fallback, deviation, 1.0))
        return cls(tuple(names), centre, scale, float(clip), method)

    def transform(self, features: npt.ArrayLike) -> Array:
        """Features [..., F] or [..., S, F], centred, scaled and cut; a new array of the same shape."""
        return np.clip(self._scaled(features), -self.clip, self.clip)

    def clip_share(self, features: npt.ArrayLike) -> dict[str, float]:
        """Share of each feature's values that `transform` cuts; large where the scale no longer fits."""
        cut = np.abs(self._scaled(features)) > self.clip
        shares = cut.reshape(-1, len(self.names)).mean(axis=0)
        return dict(zip(self.names, shares.tolist(), strict=True))

    def save(self, path: Path) -> None:
        """Writes the scaler as JSON, whole or not at all; `load` gives the same bits back."""
        text = json.dumps(
            {
                "names": list(self.names),
                "centre": self.centre.tolist(),
                "scale": self.scale.tolist(),
                "clip": self.clip,
                "method": self.method,
            },
            indent=1,
            sort_keys=True,
        )
        scratch = path.with_name(path.name + ".partial")
        scratch.write_text(text + "\n", encoding="utf-8")
        os.replace(scratch, path)

    @classmethod
    def load(cls, path: Path) -> Scaler:
        """Reads what `save` wrote."""
        saved = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            names=tuple(saved["names"]),
            centre=np.asarray(saved["centre"], dtype=np.float64),
            scale=np.asarray(saved["scale"], dtype=np.float64),
            clip=float(saved["clip"]),
            method=str(saved["method"]),
        )

    def _scaled(self, features: npt.ArrayLike) -> Array:
        values = np.asarray(features, dtype=np.float64)
        if values.shape[-self.centre.ndim :] != self.centre.shape:
            raise ValueError(f"a scaler of shape {self.centre.shape} cannot scale {values.shape}")
        return (values - self.centre) / self.scale
