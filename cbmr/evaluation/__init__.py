"""A run to one table: rows x splits x metrics, with confidence intervals.

`question` says what is asked (which listeners, which held-out tracks and votes), `rows` who answers
(`baselines`, stages, an oracle, ceilings), `table` how well, `picture` shows it.

Two columns, each where it has tracks: new tracks of a *known artist* (one with a training track)
and of a *new artist*. In each, every listener with training plays and at least one held-out play
there ranks that column's tracks (mAP@500, AUC, Recall@10, NDCG@10), and every held-out vote on one
of its tracks is scored by the similarity of the voted track to the station's seed (AUC, pooled and
within listener).
"""

from cbmr.evaluation.baselines import mel_statistics, ridge_vectors
from cbmr.evaluation.question import Column, Question, ask, relevance
from cbmr.evaluation.rows import Row, make_rows
from cbmr.evaluation.table import METRICS, Table, compare

__all__ = [
    "METRICS", "Column", "Question", "Row", "Table", "ask", "compare", "make_rows",
    "mel_statistics", "relevance", "ridge_vectors",
]  # fmt: skip
