"""Plays to collaborative-filtering factors, by one of five models.

`models` says which there are and fits them, `tuning` chooses their settings by hidden plays, and
`artefact` holds what comes out: raw factors, and the unit-norm copies that the encoder learns from,
which lessen the influence of popularity (Dieleman 2014). Matrices are `user_item`: listeners in
rows, tracks in columns.
"""

from cbmr.factors.artefact import Factors, load_factors, save_factors, unit_rows, unit_targets
from cbmr.factors.models import MODELS, factorize, settled
from cbmr.factors.tuning import GRIDS, hidden_recall, hide, tune
from cbmr.factors.wmf import confidence

__all__ = [
    "GRIDS", "MODELS", "Factors", "confidence", "factorize", "hidden_recall", "hide",
    "load_factors", "save_factors", "settled", "tune", "unit_rows", "unit_targets",
]  # fmt: skip
