"""Pretraining and the two stages as Lightning modules, and the loop that runs any of them.

`ExcerptContrast` learns from sound alone; `FactorRegression` (stage 1) predicts unit-norm CF
factors from sound; `ThumbRanking` (stage 2) fine-tunes the same encoder so that distances agree
with thumbs. All are trained by `train`, which resumes, validates, and leaves the encoder of the
last epoch.
"""

from cbmr.learners.learner import MOMENTUM, Learner
from cbmr.learners.loop import LARGEST_GRADIENT, precision, train
from cbmr.learners.pretraining import ExcerptContrast, retrieval_score
from cbmr.learners.ranking import THUMB_LOSSES, ThumbRanking
from cbmr.learners.regression import FACTOR_LOSSES, FactorRegression, Listeners

__all__ = [
    "FACTOR_LOSSES", "LARGEST_GRADIENT", "MOMENTUM", "THUMB_LOSSES", "ExcerptContrast",
    "FactorRegression", "Learner", "Listeners", "ThumbRanking", "precision", "retrieval_score",
    "train",
]  # fmt: skip
