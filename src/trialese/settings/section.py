"""What every part of a recipe is."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

__all__ = ["Count", "Folds", "IsoDate", "OpenShare", "Precision", "Section", "Share"]

IsoDate = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
OpenShare = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Folds = Annotated[int, msgspec.Meta(ge=2)]
Precision = Literal["auto", "fp32", "bf16"]
"""`auto` is bf16 where the processor computes in it, else fp32."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the tree; unknown keys are refused."""
