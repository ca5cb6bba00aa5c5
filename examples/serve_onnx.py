"""The tracks of a run nearest to a sound file, without torch: serve_onnx.py RUN FILE."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from cbmr.audio import excerpt_starts, load_audio
from cbmr.vectors import load_vectors

run, sound = Path(sys.argv[1]), Path(sys.argv[2])
session = onnxruntime.InferenceSession(run / "export" / "encoder.onnx")
about = session.get_modelmeta().custom_metadata_map
rate, stage = int(about["sample_rate"]), run / about["stage"]
excerpts = json.loads((stage / "manifest.json").read_text()).get("excerpts", 1)
query = np.zeros(int(about["embedding_size"]), dtype=np.float32)
for start_s in excerpt_starts(sound, duration_s=30, excerpts=excerpts):
    waveform = load_audio(sound, sample_rate=rate, start_s=start_s, duration_s=30)
    query += session.run(None, {"waveform": waveform.samples[None]})[0][0]
tracks = load_vectors(stage / "embeddings.npz")
cosines = tracks.vectors @ (query / np.linalg.norm(query))
for row in np.argsort(-cosines)[:10]:
    print(f"{cosines[row]:.4f} {tracks.track_ids[row]}")
