"""The file: one page that holds its style, its script and all it says."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cbmr.analysis.pages import track_columns, write_page
from cbmr.corpus import Corpus
from cbmr.report.sections import Section

TEMPLATE = Path(__file__).parent / "report.html"


def write_report(
    path: Path, corpus: Corpus, sections: Sequence[Section], *, heading: str, subtitle: str
) -> None:
    """Write the page of these sections, in which every track of the corpus is known by its row."""
    rows = np.arange(len(corpus.track_ids))
    columns = track_columns(corpus, rows, path.parent)
    names = {"id": corpus.track_ids.tolist(), "album": corpus.album.tolist()}
    said = {"heading": heading, "subtitle": subtitle, "sections": [*sections]}
    write_page(path, TEMPLATE, {**columns, **names, **said})
