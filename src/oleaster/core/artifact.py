"""An exported model's folder: complete and unchanged, or not an artifact."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from oleaster.core.errors import ConfigError, ModelError, UserError, collect
from oleaster.core.files import atomic_write_json, hash_file, staged_folder, sweep

MANIFEST = "manifest.json"
_FORMAT = 1


@dataclass(frozen=True)
class ArtifactFile:
    """One file of an artifact."""

    path: str
    """Relative to the artifact's folder, with forward slashes."""
    size: int
    """Bytes."""
    sha256: str


@dataclass(frozen=True)
class Artifact:
    """A folder with `manifest.json`, which is written last and names every file with its hash."""

    folder: Path = field(compare=False)
    kind: str
    """What the files are: `onnx-genai`, `onnx`, `hf`, `gguf`, ..."""
    precision: str
    """`fp32`, `int8`, `int4`, ..."""
    base_source: str
    """The base model as the user named it."""
    base_revision: str
    run_id: str | None
    """`Run.id` of the training; None for an exported base."""
    fidelity: dict[str, Any]
    """Figures of the comparison with the model that was trained; any JSON value."""
    files: tuple[ArtifactFile, ...]

    @property
    def size_mb(self) -> float:
        """Sum of the files in MB (1,000,000 bytes)."""
        return sum(f.size for f in self.files) / 1e6

    @classmethod
    def is_artifact(cls, folder: Path) -> bool:
        """Does `folder` look like an artifact?"""
        return (folder / MANIFEST).is_file()

    @classmethod
    def kind_of(cls, folder: Path) -> str:
        """What its manifest says it is; its other files are not looked at, as some may be edited on purpose.

        Raises: ModelError when the manifest is damaged.
        """
        try:
            return str(json.loads((folder / MANIFEST).read_text("utf-8"))["kind"])
        except (ValueError, KeyError, TypeError) as error:
            remedy = "export it again with `oleaster auto-opt`"
            raise ModelError(f"damaged manifest ({error})", where=str(folder / MANIFEST), remedy=remedy) from error

    @classmethod
    @contextmanager
    def staged(cls, target: Path) -> Iterator[Path]:
        """Build an artifact: write its files into the folder given and call `seal` on that folder at the end.

        The folder appears as `target` when the block ends well. An artifact that is there already is replaced, as
        another export makes it again; anything else that is there is left alone.

        Raises: ConfigError when `target` holds something else; StorageError when the disk is full.
        """
        if target.exists() and not cls.is_artifact(target) and (not target.is_dir() or any(target.iterdir())):
            message = "the folder holds files that are not of an artifact"
            raise ConfigError(message, where=str(target), remedy="choose another --output_path")
        with staged_folder(target, replace=True) as folder:
            yield folder
            if not cls.is_artifact(folder):
                raise RuntimeError("Artifact.seal was not called in the staged folder")

    @classmethod
    def seal(
        cls,
        folder: Path,
        *,
        kind: str,
        precision: str,
        base_source: str,
        base_revision: str,
        run_id: str | None = None,
        fidelity: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Hash all files of `folder` and write its manifest.

        Raises: ValueError when `fidelity` holds a value that JSON does not know (NaN, infinity, an object).
        """
        paths = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
        artifact = cls(
            folder=folder,
            kind=kind,
            precision=precision,
            base_source=base_source,
            base_revision=base_revision,
            run_id=run_id,
            # Through JSON and back, so that tuples and number keys are what `open` will give.
            fidelity=json.loads(json.dumps(dict(fidelity or {}), allow_nan=False)),
            files=tuple(ArtifactFile(p.relative_to(folder).as_posix(), p.stat().st_size, hash_file(p)) for p in paths),
        )
        facts = asdict(artifact)
        del facts["folder"]
        atomic_write_json(folder / MANIFEST, {"format": _FORMAT, **facts})
        return artifact

    @classmethod
    def open(cls, folder: Path, *, verify: bool = False) -> Artifact:
        """Read an artifact; checks that every file is there with its size, and its hash too with `verify`.

        Raises: ModelError when there is no manifest or files are missing or changed, all of them named.
        """
        remedy = "export it again with `oleaster auto-opt`"
        if not folder.exists():
            sweep(folder.absolute().parent)  # it may have been put aside by an export that was killed
        try:
            facts = json.loads((folder / MANIFEST).read_text("utf-8"))
            files = tuple(ArtifactFile(**f) for f in facts.pop("files"))
            if (found := facts.pop("format")) != _FORMAT:
                message = f"the manifest has format {found}; this version of oleaster reads format {_FORMAT}"
                raise ModelError(message, where=str(folder), remedy=remedy)
            artifact = cls(folder=folder, files=files, **facts)
        except FileNotFoundError as error:
            found = f"no {MANIFEST}: not an exported model" if folder.is_dir() else "no such folder"
            raise ModelError(found, where=str(folder), remedy=remedy) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"damaged manifest ({error})", where=str(folder / MANIFEST), remedy=remedy) from error
        problems: list[UserError] = []
        for file in artifact.files:
            path = folder / file.path
            if not path.is_file():
                problems.append(ModelError("missing", where=str(path), remedy=remedy))
            elif path.stat().st_size != file.size:
                message = f"has {path.stat().st_size} bytes instead of {file.size}"
                problems.append(ModelError(message, where=str(path), remedy=remedy))
            elif verify and hash_file(path) != file.sha256:
                problems.append(ModelError("has other contents than were exported", where=str(path), remedy=remedy))
        collect(problems)
        return artifact
