"""LOOKING BEFORE TRAINING: what a data set holds and what is wrong with it, in numbers and as a picture."""

from typing import TYPE_CHECKING

from dit.lazy import on_use

if TYPE_CHECKING:
    from data.inspect.report import examine
    from data.inspect.sheet import contact_sheet

__all__ = ["contact_sheet", "examine"]

__getattr__ = on_use(__name__)
