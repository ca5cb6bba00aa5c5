"""The tracks of a run nearest to a sound file, without torch: serve_onnx.py RUN FILE."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime

from cbmr.audio import load_middle
from cbmr.vectors import load_vectors


def main(run: Path, sound: Path) -> None:
    """Print cosines and track ids, nearest first."""
    session = onnxruntime.InferenceSession(run / "export" / "encoder.onnx")
    about = session.get_modelmeta().custom_metadata_map
    waveform = load_middle(sound, sample_rate=int(about["sample_rate"]), duration_s=30)
    query = session.run(None, {"waveform": waveform.samples[None]})[0][0]
    tracks = load_vectors(run / about["stage"] / "embeddings.npz")
    cosines = tracks.vectors @ query
    for row in np.argsort(-cosines)[:10]:
        print(f"{cosines[row]:.4f} {tracks.track_ids[row]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
