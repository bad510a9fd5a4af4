"""Score a checkpoint: `python evaluate.py checkpoint=PATH guidance_scales=[1,1.5]`, a row a scale: docs/scores.md."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.text import Text

from dit.checks import printable
from dit.launch import entry, plain
from dit.launch.options import Evaluate


@entry("evaluate", Evaluate, trainer="trainer")
def main(config: DictConfig) -> float | None:
    # Here, because they load PyTorch: `--help` and the refusal of a typo do not wait for it.
    from dit.checkpoint import load
    from dit.evaluate import Images, Samples, check_keys, given_pictures, measure_of, pictures_of, share_of
    from dit.metrics import protocol_line, table, write_scores
    from dit.output import write_sheet

    options = plain(config)
    check_keys(options)
    share = share_of(options["device"])
    loaded = options["checkpoint"] and load(options["checkpoint"], options["weights"], share.device)
    loaded = loaded and loaded.computing(*(options[key] for key in ("precision", "compile", "compile_mode")))
    given = given_pictures(options)
    data = instantiate(given) if given is not None else pictures_of(options, loaded)
    subject = (
        Samples.of(options, loaded, instantiate(config.sampler), data, share)
        if loaded
        else Images.of(options, data, share)
    )
    measure = measure_of(options, instantiate(config.features) or None, data, share.device, subject.shape)
    rows, protocol, images = subject.score(measure)
    if share.rank > 0:
        return None
    console = Console(highlight=False)
    console.print(table(rows, console.width), Text(printable(protocol_line(protocol))), sep="\n")
    out = Path(HydraConfig.get().runtime.output_dir)
    if images is not None:
        write_sheet(out / "samples.png", images)
    write_scores(out / "scores.json", protocol, rows)
    print(printable(f"scores: {out}/scores.json"))
    return rows[-1].value("frechet")


if __name__ == "__main__":
    main()
