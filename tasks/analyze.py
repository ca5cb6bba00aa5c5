"""`python -m tasks.analyze`: what a stage's network learned: its filters."""

from pathlib import Path

from omegaconf import DictConfig, ListConfig

from cbmr.errors import InputError
from cbmr.files import file_hash
from tasks.command import command
from tasks.runs import MANIFESTS, is_fresh, say, serving_stage, settings_of, write_manifest

PICTURES = ("filters.png", "filters_close.png")


def run(cfg: DictConfig) -> None:
    """Leave `analysis/` of a stage's encoder."""
    folder = Path(cfg.run)
    stage = serving_stage(cfg)
    chosen = _numbers(cfg, "filters")
    settings = settings_of(cfg)
    inputs = {f"{stage}/encoder.pt": file_hash(folder / stage / "encoder.pt")}
    if is_fresh(folder, "analyze", settings, inputs):
        return

    from cbmr.analysis import draw_close_up, draw_filters, first_filters, strongest
    from cbmr.encoder import load_encoder

    (folder / MANIFESTS["analyze"]).unlink(missing_ok=True)
    target = folder / "analysis"
    encoder = load_encoder(folder / stage / "encoder.pt")
    filters = first_filters(encoder)
    draw_filters(filters, encoder.mel_spec, target / PICTURES[0])
    draw_close_up(filters, chosen or strongest(filters), encoder.mel_spec, target / PICTURES[1])
    outputs = {name: file_hash(target / name) for name in PICTURES}
    write_manifest(folder, "analyze", settings, inputs, outputs=outputs)
    say(f"analyze {stage}: {len(filters)} filters -> {target / PICTURES[0]}")


def _numbers(cfg: DictConfig, name: str) -> list[int]:
    """Numbers that a person chose, empty where there are none."""
    value = cfg[name]
    if value is None:
        return []
    numbers = list(value) if isinstance(value, ListConfig) else [value]
    if not numbers or any(type(number) is not int or number < 0 for number in numbers):
        raise InputError(f"{name}={value}: expected whole numbers from 0, such as {name}=[14,242]")
    return numbers


if __name__ == "__main__":
    command("analyze", run)
