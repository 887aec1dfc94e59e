"""Batches of pictures together with what a ControlNet follows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePath

import numpy as np

from ...checks import check_type, kind
from ...public import public, public_class
from ..batch import Batch
from .examples import Dataset
from .order import Batches

__all__ = ["controlled"]


@public_class
@dataclass(frozen=True, eq=False)
class Controlled:
    """Batches as `controlled` makes them."""

    pictures: Batches
    controls: Batches

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step, with `control`."""
        batch, followed = self.pictures(step), self.controls(step)
        for own, other in zip(batch.names, followed.names, strict=True):
            if PurePath(own).with_suffix("") != PurePath(other).with_suffix(""):
                raise ValueError(
                    f"pictures and controls must be of the same sources in the same order, got {own!r} and {other!r}"
                )
        return batch._replace(control=followed.x0)


@public
def controlled(pictures: Batches, controls: Dataset) -> Controlled:
    """Give batches of pictures what a ControlNet follows: the means of the latents of their edges, scaled.

    Args:
        pictures: of the pictures with their captions.
        controls: the same pictures' edges in the same order, as `prepare.run(…, edges="canny")` writes them.
    Returns:
        step → Batch, with `control`.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the two don't fit together.
    """
    check_type("pictures", pictures, Batches, "a Batches")
    own = pictures.dataset
    if getattr(controls, "sizes", None) is None:
        raise TypeError(f"controls must be what prepared.open or arrays gives, got {kind(controls)}")
    _check_folders(own, controls)
    if not np.array_equal(own.sizes, controls.sizes) or own.scale != controls.scale:
        first, second = (
            f"{len(each.sizes)} of {np.unique(each.sizes, axis=0).tolist()}, scaled by {each.scale:g}"
            for each in (own, controls)
        )
        raise ValueError(f"controls must be of the same pictures, which are {first}, got {second}")
    return Controlled(pictures, replace(pictures, dataset=controls, dropout=0.0, sample=False, conditions=False))


def _check_folders(pictures: Dataset, controls: Dataset) -> None:
    """Raise where prepared folders are exchanged, the same, or of edges of other pictures."""
    own, other = (getattr(each, "options", {}) for each in (pictures, controls))
    if own.get("edges") is not None:
        raise ValueError("pictures must be prepared pictures, and these are edges: are the two exchanged?")
    first, second = (getattr(each, "folder", None) for each in (pictures, controls))
    if first is not None and first == second:
        raise ValueError("controls must be another folder than pictures, such as one of their edges")
    if other.get("edges") is not None and own and own.get("source") != other.get("source"):
        raise ValueError("controls must be the edges of the same pictures with the same captions, got those of others")
