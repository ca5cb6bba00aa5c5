"""The training stages as Lightning modules, and the loop that runs any of them.

`FactorRegression` (stage 1) predicts unit-norm CF factors from sound; `ThumbRanking` (stage 2)
fine-tunes the same encoder so that distances agree with thumbs. Both are trained by `train`, which
resumes, validates, and returns the encoder of the best epoch.
"""

from cbmr.learners.learner import MOMENTUM, Learner
from cbmr.learners.loop import precision, train
from cbmr.learners.ranking import THUMB_LOSSES, ThumbRanking
from cbmr.learners.regression import FACTOR_LOSSES, FactorRegression, Listeners

__all__ = [
    "FACTOR_LOSSES", "MOMENTUM", "THUMB_LOSSES", "FactorRegression", "Learner", "Listeners",
    "ThumbRanking", "precision", "train",
]  # fmt: skip
