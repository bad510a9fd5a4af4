"""Train a DiT: `python train.py experiment=digits`, any key of configs/ overridable; see README.md."""

from operator import mul
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from data import folder_classes
from dit.cli import entry, plain
from dit.diffusion.prediction import check_kind
from dit.training import DiTModule, RenamedCheckpointIO


@entry("train", resolvers={"count_classes": lambda root: len(folder_classes(root)), "product": mul})
def main(config: DictConfig) -> None:
    OmegaConf.resolve(config)
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision(config.matmul_precision)
    data = instantiate(config.data)
    module = DiTModule(
        network=instantiate(config.model),
        path=instantiate(config.diffusion.path),
        kind=check_kind(config.diffusion.kind, "diffusion.kind"),
        times=instantiate(config.times),
        loss=instantiate(config.loss),
        optimizer=instantiate(config.optimizer),
        scheduler=instantiate(config.scheduler),
        ema=instantiate(config.ema),
        facts=data.facts,
        config=plain(config),
        seed=config.seed,
        compile=config.compile,
    )
    trainer = instantiate(
        config.trainer,
        callbacks=list(instantiate(config.callbacks).values()),
        logger=list(instantiate(config.logger).values()),
        plugins=[RenamedCheckpointIO()],
    )
    for logger in trainer.loggers:
        logger.log_hyperparams(plain(config))
    if config.resume is not None and not Path(config.resume).is_file():
        raise ValueError(f"resume={config.resume} does not exist; give the path of a last.ckpt, or null to start anew")
    try:
        trainer.fit(module, data, ckpt_path=config.resume, weights_only=True)
    finally:
        for logger in trainer.loggers:  # the jobs of a sweep share a process: each needs a wandb run of its own
            getattr(logger.experiment, "finish", lambda: None)()
    print(f"checkpoint: {config.callbacks.checkpoint.folder}/last.ckpt")


if __name__ == "__main__":
    main()
