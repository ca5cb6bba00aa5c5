"""What a run is worth, on one page.

`findings` turns what the run holds into what the page shows, `sections` into the blocks that its
script draws, and `page` puts them into one HTML file (`report.html`), with its own style and
script, as those of `cbmr.analysis` are: nothing is loaded but audio, when it is asked for.
"""

from cbmr.report.findings import HeldOutFit, held_out_fit, typical_tracks
from cbmr.report.page import write_report

__all__ = ["HeldOutFit", "held_out_fit", "typical_tracks", "write_report"]
