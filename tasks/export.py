"""`python -m tasks.export`: a stage's encoder as ONNX, from waveform to unit vector."""

import logging
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig

from cbmr.errors import InputError
from cbmr.files import file_hash
from tasks.command import command
from tasks.runs import serving_stage
from tasks.terminal import say


def run(cfg: DictConfig) -> None:
    """Leave `export/encoder.onnx`; its metadata say whose it is."""
    folder = Path(cfg.run)
    stage = serving_stage(cfg)
    if find_spec("onnxscript") is None:
        raise InputError("onnxscript is not installed: expected pip install 'cbmr[export]'")

    from cbmr.encoder import load_encoder
    from cbmr.export import export_onnx

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of operators of others
    source, target = folder / stage / "encoder.pt", folder / "export" / "encoder.onnx"
    origin = {"stage": stage, "encoder_hash": file_hash(source)}
    export_onnx(target, load_encoder(source), origin=origin)
    say(f"export: {stage}, {target.stat().st_size / 1e6:.1f} MB -> {target}")


if __name__ == "__main__":
    command("export", run)
