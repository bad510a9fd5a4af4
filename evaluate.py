"""Score a checkpoint: `python evaluate.py checkpoint=PATH scales=[1,1.5]`, a row a scale; see docs/scores.md."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from data import RESOLVERS
from dit.checkpoint import load
from dit.cli import entry, plain, share_of
from dit.evaluation import protocol_line, table, write_scores
from dit.output import write_sheet
from dit.scoring import check_same, measure_of, of_pictures, of_samples


@entry("evaluate", {"images": 2, "steps": 1, "seed": 0, "batch_size": 1}, RESOLVERS, trainer="trainer")
def main(config: DictConfig) -> float | None:
    options = plain(config)
    if (options["checkpoint"] is None) == (options["fake"] is None):
        raise ValueError("either checkpoint or fake must say whose images are scored, and not both")
    share = share_of(options["device"])
    loaded = options["checkpoint"] and load(options["checkpoint"], options["weights"], share.device)
    sampler = instantiate(config.sampler) if loaded else None
    pictures = options.pop("data", None) or (loaded.pictures if loaded else None)
    moved = {"root": options["data_root"]} if options["data_root"] is not None else {}
    data = instantiate({**pictures, **moved}) if pictures else None
    if loaded:
        check_same(loaded, data)
    measure = measure_of(options, instantiate(config.features) or None, data, share.device)
    rows, protocol, images = (
        of_samples(options, measure, loaded, sampler, data, share) if loaded else of_pictures(options, measure)
    )
    if share.rank > 0:
        return None
    Console(highlight=False, width=120).print(table(rows), protocol_line(protocol), sep="\n")
    out = Path(HydraConfig.get().runtime.output_dir)
    write_scores(out / "scores.json", protocol, rows)
    if images is not None:
        write_sheet(out / "samples.png", images)
    print(f"scores: {out}/scores.json")
    return rows[-1].value("frechet")


if __name__ == "__main__":
    main()
