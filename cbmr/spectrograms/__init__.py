"""The on-disk store of log-mels: decode once, read for ever.

    store/
      manifest.json     format and decoding versions, MelSpec, length and number of excerpts
      pieces/00000.npy  float16 [rows, mels, frames], about 1,000, a row an excerpt
      pieces/00000.json the file behind each row, the files that were skipped, with reasons, and
                        those whose content was known; the checksum of both, and the decoder
      catalogue.json    track_id -> content, of the corpus scanned last

A piece is written whole, when it is full or a minute old: first the array, then the JSON that makes
it count. Whatever interrupts a scan, the pieces that stand are right, and the same call goes on
after them. Rows are found by the content of their file (BLAKE2b), and a file whose path, size and
time of change are known is not even opened again; one that moved is hashed, not decoded. Rows of
files that are gone stay, for the day they come back. Which file is in which piece is chance, since
files are taken as they come; what the store says of a track is not.

A reader holds a piece against its checksum before its first row, and sets a damaged one aside: the
next scan decodes that piece's files, and no others. Files that could not be read are tried again by
another version of the decoder, and everything is decoded anew where cbmr's log-mels have changed.

Shorter clips are padded with zeros up to `frames`; how many frames are real is kept, and the
encoder pools over those alone.
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
