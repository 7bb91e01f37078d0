"""A Ray cluster, joined for as long as a search or a training lasts."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from oleaster.core.errors import ConfigError, MissingExtraError

LOST_MACHINES = 3
"""So often work is begun again when a machine or process of the cluster is lost."""
_SETTINGS = {
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}
"""Work is no background job, as Ray has it; no reports to Ray's makers, no files that nobody reads."""


def need_ray(where: str) -> None:
    """Raises: MissingExtraError when Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError("the package ray is not installed", where=where, remedy='pip install "oleaster[ray]"')


@contextmanager
def joined(address: str | None, cpus: int | None = None) -> Iterator[Any]:
    """Ray, as part of the cluster at `address`, or of one begun on this machine with `cpus`; left at the block's end.

    Raises: ConfigError when there is no cluster at the address.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray  # pyright: ignore[reportMissingImports]  (an extra)

    own = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True, **own)
    except ConnectionError as error:
        remedy = "ray start --head begins a cluster; without ray_address one begins on this machine"
        where = f"ray_address: {address}"
        raise ConfigError(f"no Ray cluster answers ({error})", where=where, remedy=remedy) from error
    try:
        yield ray
    finally:
        ray.shutdown()
