"""What of an artifact belongs on the Hugging Face hub, with its card, and sending it there.

A classifier's card comes from its verdict; those of models, adapters and data sets from their
manifests. Nothing is sent without one. Manifests, predictions and logs stay at home: they name
local paths and the texts that were held out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from trialese.artifacts import read_manifest
from trialese.collect.snapshot import REJECTS_NAME, TRIALS_NAME
from trialese.corpus.store import CARD_NAME, corpus_card, data_set_card
from trialese.errors import ArtifactError, RecordError, with_article
from trialese.hub import is_repository, upload_files
from trialese.records import Manifest
from trialese.tasks.blend import BLEND_NAME
from trialese.tasks.linear import LINEAR_NAME
from trialese.tasks.scorer import ONNX_NAME, model_folder
from trialese.verdict.card import format_model_card
from trialese.verdict.report import load_context, load_verdicts

__all__ = ["Publication", "prepare_publication", "publish"]

_ADAPTER_CONFIG = "adapter_config.json"
_KINDS = ("classifier", "export", "adapter", "model", "corpus", "snapshot")


class Publication(NamedTuple):
    """A folder as it will stand on the hub."""

    repository: str
    kind: Literal["model", "dataset"]
    files: dict[str, Path | bytes]
    """By path in the repository; the card is README.md."""

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, by its path in the repository."""
        return {
            name: len(held) if isinstance(held, bytes) else held.stat().st_size
            for name, held in sorted(self.files.items())
        }


def prepare_publication(
    folder: Path, repository: str, *, verdict: Path | None = None, base: str | None = None
) -> Publication:
    """What would be sent of the artifact in `folder` to `repository`, an `owner/name`.

    `verdict` is the folder that judged a classifier, by default its run's own. `base` is the hub
    id of the model that an adapter goes onto, where the hub does not have it under its own name.
    A README.md that somebody laid into the folder is the card.

    Raises:
        ArtifactError: no such artifact, a damaged one, or of a kind that is not published.
        RecordError: no card can be made, no `owner/name`, or an adapter whose base nobody else has.
    """
    for name in filter(None, (repository, base)):
        if not is_repository(name):
            raise RecordError(f"{name}: no repository of the hub; write owner/name")
    manifest = read_manifest(folder, verify=True)
    if manifest.kind not in _KINDS:
        raise ArtifactError(
            f"{folder}: {with_article(manifest.kind)}; what can be published is "
            f"{', '.join(map(with_article, _KINDS))}"
        )
    what, of_classifier = with_article(manifest.kind), manifest.kind in ("classifier", "export")
    if base and (of_classifier or manifest.kind in ("corpus", "snapshot")):
        raise RecordError(f"{folder}: {what}, no model or adapter; leave --base out")
    if verdict and not of_classifier:
        raise RecordError(f"{folder}: {what}, no classifier; leave --verdict out")
    if manifest.kind in ("corpus", "snapshot"):
        tables = [name for name in manifest.files if name.endswith((".parquet", ".jsonl"))]
        files: dict[str, Path | bytes] = {name: folder / name for name in tables}
        files[CARD_NAME] = _own_card(folder) or _data_card(manifest).encode()
        return Publication(repository, "dataset", files)
    if of_classifier:
        home = model_folder(folder)
    else:
        home = next(at for at in (folder / "adapter", folder / "model") if at.is_dir())
    files = {file.relative_to(home).as_posix(): file for file in _below(home, manifest, folder)}
    start = base or _hub_backbone(manifest)
    if _ADAPTER_CONFIG in files:
        if start is None:
            raise RecordError(
                f"{folder}: its base model is a local one, which nobody else could get; publish "
                "that first, then name it with --base owner/name"
            )
        config = {**json.loads((home / _ADAPTER_CONFIG).read_bytes())}
        config["base_model_name_or_path"] = start
        files[_ADAPTER_CONFIG] = json.dumps(config, indent=2, sort_keys=True).encode()
    card = _own_card(folder) or _own_card(home)
    if card is not None and verdict:
        raise RecordError(f"{folder}: the README.md in it is the card; leave --verdict out")
    if card is None and of_classifier:
        card = _classifier_card(folder, manifest, repository, home, verdict).encode()
    files[CARD_NAME] = card or _language_model_card(manifest, repository, start).encode()
    return Publication(repository, "model", files)


def publish(publication: Publication, *, private: bool = False) -> str:
    """Send it as one commit to the hub that huggingface_hub is set to; the address of its page.

    The token is the one in huggingface_hub's own store.

    Raises:
        ArtifactError: no connection, no token, no right to write there, or a public repository
            where a private one was asked for.
    """
    return upload_files(
        publication.repository, publication.kind, publication.files, private=private
    )


def _below(home: Path, manifest: Manifest, folder: Path) -> Iterator[Path]:
    """The files of the manifest that lie below `home`; what else lies there is not sent."""
    for name in manifest.files:
        if (folder / name).is_relative_to(home) and name != "predictions.parquet":
            yield folder / name


def _own_card(folder: Path) -> bytes | None:
    file = folder / CARD_NAME
    return file.read_bytes() if file.is_file() else None


def _data_card(manifest: Manifest) -> str:
    if manifest.kind == "corpus":
        return corpus_card(manifest.counts, manifest.notes)
    body = [
        f"{manifest.counts.get('trials', 0):,} registered studies as trialese parsed them, one row "
        "each; `rejects.jsonl` holds what could not be parsed, with its reason."
    ]
    tables = {"trials": TRIALS_NAME, "rejects": REJECTS_NAME}
    return data_set_card("Registered clinical trials", tables, manifest.notes, body)


def _hub_backbone(manifest: Manifest) -> str | None:
    """The hub id of the model as it came; None for a local one, or one that was changed since."""
    notes = manifest.notes
    name = str(notes.get("backbone") or "")
    changed = notes.get("adapted_to_old") or notes.get("new_head")
    changed = changed or notes.get("base_kind") == "adapter"
    return name if is_repository(name) and not changed and not Path(name).exists() else None


def _classifier_card(
    folder: Path, manifest: Manifest, repository: str, home: Path, verdict: Path | None
) -> str:
    """The card that the verdict gives to the system whose digest it judged."""
    judged_by = verdict or next(
        (at for up in folder.absolute().parents[:2] if (at := up / "verdict").is_dir()), None
    )
    if judged_by is None:
        raise RecordError(
            f"{folder}: no card without a verdict; name the one that judged it with --verdict, or "
            f"lay a {CARD_NAME} into the folder"
        )
    inputs = read_manifest(judged_by, kind="verdict", verify=True).inputs
    wanted = {manifest.digest, *manifest.inputs.values()} if manifest.kind == "export" else {
        manifest.digest
    }  # fmt: skip
    judged = [role.split("/")[:2] for role, digest in inputs.items() if digest in wanted]
    if not judged:
        raise RecordError(f"{folder}: {judged_by} judged other classifiers; evaluate this one")
    task, system = judged[0]
    (found,) = [each for each in load_verdicts(judged_by) if each.task == task][:1]
    card = format_model_card(found, system, context=load_context(judged_by), use=_use(home))
    return card.replace("PATH", repository)


def _use(home: Path) -> str | None:
    """How a classifier that transformers cannot load is used; None for one that it can."""
    if not any((home / name).is_file() for name in (ONNX_NAME, LINEAR_NAME, BLEND_NAME)):
        return None
    extra = "[infer]" if (home / ONNX_NAME).is_file() else ""
    if (home / BLEND_NAME).is_file() and any(home.rglob("*.safetensors")):
        extra = "[train]"
    return (
        f"```console\n$ pip install 'trialese{extra}' huggingface_hub\n"
        '$ hf download PATH --local-dir model\n$ trialese predict model "Slow accrual"\n```\n'
    )


def _language_model_card(manifest: Manifest, repository: str, base: str | None) -> str:
    """The card of a masked-language model or of a LoRA adapter, from its manifest."""
    adapter = manifest.kind == "adapter" and manifest.notes.get("method") == "lora"
    front = {
        "language": "en",
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "fill-mask",
        **({"base_model": base} if base else {}),
        "tags": ["trialese", "clinical-trials"],
    }
    steps = sum(manifest.counts.get("steps", {}).values())
    tokens = sum(manifest.counts.get("tokens", {}).values())
    what = "A LoRA adapter" if adapter else "A masked-language model"
    load = (
        f'from peft import AutoPeftModel\n\nmodel = AutoPeftModel.from_pretrained("{repository}")'
        if adapter
        else "from transformers import AutoModelForMaskedLM\n\n"
        f'model = AutoModelForMaskedLM.from_pretrained("{repository}")'
    )
    gains = [
        f"| {name} | {gain['point']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}] |"
        for name, gain in manifest.notes.get("top1_gain", {}).items()
    ]
    lines = [
        f"# {repository.partition('/')[2]}\n",
        f"{what} of clinical-trial registry text, {steps:,} steps over {tokens:,} tokens by "
        f"trialese {manifest.code_version}.\n",
        f"```python\n{load}\n```\n",
    ]
    if gains:
        lines += ["| held-out trials | gain in top-1 accuracy on masked tokens |", "|---|---|"]
        lines += [*gains, ""]
        lines.append("The gain is over the model that it started from, not over more training.\n")
    lines.append("Made for research on registries, not for care.")
    yaml = "\n".join(f"{key}: {json.dumps(value)}" for key, value in front.items())
    return f"---\n{yaml}\n---\n\n" + "\n".join(lines) + "\n"
