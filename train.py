"""Train a DiT: `python train.py experiment=digits`, any key of configs/ overridable; see README.md."""

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dit.launch import adopt, entry, plain
from dit.launch.options import Train


@entry("train", Train, trainer="trainer")
def main(config: DictConfig) -> float | None:
    import torch  # here, with all that loads it: `--help` and the refusal of a typo do not wait for it

    from data import pictures_spec
    from dit.checkpoint import load
    from dit.diffusion.prediction import check_kind
    from dit.training import DiTModule, RenamedCheckpointIO, find_start, finishing, say, start_from

    if config.finetune_from is not None:
        start = load(config.finetune_from, key="finetune_from")
        adopt(config, start)
    OmegaConf.resolve(config)
    kept = config.callbacks and config.callbacks.checkpoint and config.callbacks.checkpoint.folder
    begin = find_start(kept and config.resume, kept, config.trainer.max_steps, plain(config))
    if begin.finished:
        return begin.validation_loss
    check_kind(config.diffusion.kind, "diffusion.kind")
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision(config.matmul_precision)
    data = instantiate(config.data)
    network = instantiate(config.model, _convert_="all")
    said = start_from(network, start, data.facts) if config.finetune_from and not begin.file else ""
    parts = "times", "loss", "optimizer", "lr_schedule", "ema", "validation", "on_nonfinite", "adapter"
    module = DiTModule(
        network=network,
        **instantiate(config.diffusion, _convert_="all"),
        **{key: instantiate(config[key], _convert_="all") for key in parts},
        facts=data.facts,
        pictures=pictures_spec(plain(config)["data"]),
        config=plain(config),
        **{key: config[key] for key in ("seed", "compile", "compile_mode", "dropout")},
    )
    parts_in = {key: instantiate(config[key]) or {} for key in ("callbacks", "logger")}
    lists = {key: [part for part in node.values() if part is not None] for key, node in parts_in.items()}
    trainer = instantiate(config.trainer, **lists, plugins=[RenamedCheckpointIO()])
    if said:
        say(f"finetune_from={config.finetune_from}: {said}")
    with finishing(trainer.loggers):
        for logger in trainer.loggers:
            logger.log_hyperparams(plain(config))
        trainer.fit(module, data, ckpt_path=begin.file, weights_only=True)
    if kept:
        say(f"checkpoint: {kept}/last.ckpt")
    return module.validation_loss


if __name__ == "__main__":
    main()
