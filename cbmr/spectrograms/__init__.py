"""The on-disk store of log-mels: decode once, read for ever.

    store/
      manifest.json     format version, MelSpec, length and number of excerpts
      pieces/00000.npy  float16 [rows, mels, frames], about 1,000, a row an excerpt
      pieces/00000.json the file behind each row, and the files that were skipped, with reasons
      catalogue.json    track_id -> content, of the corpus scanned last

A piece is written whole: first the array, then the JSON that makes it count. Whatever interrupts a
scan, the pieces that stand are right, and the same call goes on after them. Rows are found by the
content of their file (BLAKE2b), and a file whose path, size and time of change are known is not
even opened again. Shorter clips are padded with zeros up to `frames`; how many frames are real is
kept, and the encoder pools over those alone.
"""

from cbmr.spectrograms.build import Scan, build_store
from cbmr.spectrograms.decoding import read_logmels
from cbmr.spectrograms.store import (
    SpectrogramStore,
    Store,
    band_scale,
    store_folder,
    store_frames,
)

__all__ = [
    "Scan", "SpectrogramStore", "Store", "band_scale", "build_store", "read_logmels",
    "store_folder", "store_frames",
]  # fmt: skip
