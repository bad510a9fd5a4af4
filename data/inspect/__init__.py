"""LOOKING BEFORE TRAINING: what a data set holds and what is wrong with it, in numbers and as a picture."""

from data.inspect.report import examine
from data.inspect.sheet import contact_sheet

__all__ = ["contact_sheet", "examine"]
