"""One training whose processes run on the machines of a Ray cluster.

Ray Train starts the processes, makes them known to each other and, when one is lost, starts all of them again; they go
on from the last checkpoint. The training itself is `finetune`'s, as under torchrun. Rows, base and the run's folder lie
where all machines see them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from oleaster.config.load import recipe_text, replace
from oleaster.config.rules import TO_FINETUNE, check
from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError, OleasterError, RunError
from oleaster.core.files import remove_folder
from oleaster.core.machine import usable_cores
from oleaster.core.run import Run
from oleaster.pipeline.ray_cluster import LOST_MACHINES, joined, need_ray
from oleaster.pipeline.shelf import get_ready

STORAGE = "ray"
"""Folder in the run's own where Ray keeps its account while the training lasts."""


def finetune_on_cluster(config: Config, workers: int, address: str | None = None) -> Run:
    """`finetune` with `workers` processes; each takes every n-th row of a step.

    Args:
        address: of the cluster (`auto`: the one that this machine belongs to); None: one is begun on this machine.

    Raises:
        UserError: something in recipe, rows or model is wrong, or no cluster answers.
        RunError: the processes broke off more often than `LOST_MACHINES`; `training.resume` goes on.
    """
    if workers < 1:
        raise ConfigError("a training has at least one process", where="--ray_workers", remedy="--ray_workers 2")
    need_ray("--ray_workers")
    check(config, TO_FINETUNE)
    if config.output_path is None:
        raise ConfigError("not given: the folder of the run", where="output_path", remedy="--output_path runs/first")
    settled = get_ready(config).config  # what is wrong with rows or base is said here, not on another machine
    with joined(address, max(workers, usable_cores())) as ray:
        threads = config.training.num_threads or max(1, int(ray.cluster_resources().get("CPU", 1)) // workers)
        recipe = recipe_text(replace(settled, num_threads=threads, resume=False))
        with Run.claim(config.output_path, recipe, resume=config.training.resume) as run:
            if run.is_done:
                return run
        _train(ray, replace(config, num_threads=threads, resume=True), workers)
    return run


def _train(ray: Any, config: Config, workers: int) -> None:
    """Have Ray Train run `_process` in each worker."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig  # pyright: ignore[reportMissingImports]
    from ray.train.torch import TorchConfig, TorchTrainer  # pyright: ignore[reportMissingImports]
    from ray.train.v2.api.exceptions import TrainingFailedError  # pyright: ignore[reportMissingImports]

    gpus = ray.cluster_resources().get("GPU", 0) >= workers
    assert config.output_path is not None  # finetune_on_cluster has seen to it
    told = {"config": config.model_dump_json(), "here": str(Path.cwd())}
    share = {"CPU": config.training.num_threads or 1}
    trainer = TorchTrainer(
        _process,
        train_loop_config=told,
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus, resources_per_worker=share),
        run_config=RunConfig(
            name=STORAGE,
            storage_path=str(config.output_path.resolve()),
            failure_config=FailureConfig(max_failures=LOST_MACHINES),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise _reason(error) from error
    remove_folder(config.output_path / STORAGE)


def _process(told: dict[str, str]) -> None:
    """What each worker runs. Ray has told it, as torchrun would, which of how many processes it is."""
    from oleaster.pipeline.tuning import finetune

    os.chdir(told["here"])  # the recipe's paths are seen from there
    finetune(Config.model_validate_json(told["config"]))


def _reason(error: Any) -> OleasterError:
    """Why the processes ended: what one of them has said, else what Ray knows."""
    said = [reason for reason in getattr(error, "worker_failures", {}).values() if isinstance(reason, OleasterError)]
    return said[0] if said else RunError(f"the training broke off on the cluster\n{error}\n  -> --resume goes on")
