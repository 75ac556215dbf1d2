"""Adapters: what is trained, merged, saved; folders of peft and of the prior art."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import BertConfig, BertForMaskedLM, BertForTokenClassification

from trialese.errors import ArtifactError, RecipeError
from trialese.pretrain.backbone import load_masked_lm
from trialese.pretrain.lora import attach_lora, load_lora, merge_lora, save_lora
from trialese.settings import LoraSettings

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"  # peft itself, called directly here
)

IDS = torch.randint(5, 140, (2, 16), generator=torch.Generator().manual_seed(0))


def random_adapter(folder: Path, *, train_head: bool, **lora: object) -> PeftModel:
    """The toy with an adapter whose weights are all random."""
    model, _ = load_masked_lm(folder)
    wrapped = attach_lora(model, LoraSettings(**lora), train_head=train_head, seed=1)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for value in wrapped.parameters():
            if value.requires_grad:
                value.add_(torch.randn(value.shape, generator=generator) * 0.05)
    return wrapped.eval()


@pytest.mark.parametrize("train_head", [False, True])
def test_a_fresh_adapter_changes_nothing_and_trains_no_head_decoder(tiny_backbone, train_head):
    model, _ = load_masked_lm(tiny_backbone)
    before = model(IDS).logits
    state = torch.random.get_rng_state()
    wrapped = attach_lora(model, LoraSettings(), train_head=train_head, seed=1).eval()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(wrapped(IDS).logits, before)
    trained = {name for name, value in wrapped.named_parameters() if value.requires_grad}
    lora = {name for name in trained if "lora_" in name}
    assert len(lora) == 2 * 6 * 2  # A and B of six linear layers in two encoder layers
    assert all(".bert.encoder." in name for name in lora)
    assert all(".cls.predictions.transform." in name for name in trained - lora)
    assert bool(trained - lora) == train_head


def test_named_targets_and_a_wrong_one(tiny_backbone):
    model, _ = load_masked_lm(tiny_backbone)
    wrapped = attach_lora(model, LoraSettings(targets=("query", "value")), train_head=False, seed=1)
    names = [n for n, v in wrapped.named_parameters() if v.requires_grad]
    assert len(names) == 8 and all(".query." in n or ".value." in n for n in names)
    with pytest.raises(RecipeError, match=r"'q_proj'; it has dense, key, query, value"):
        attach_lora(
            load_masked_lm(tiny_backbone)[0],
            LoraSettings(targets=("q_proj",)),
            train_head=False,
            seed=1,
        )


@pytest.mark.parametrize("lora", [{}, {"dora": True}, {"rslora": True}])
@pytest.mark.parametrize("train_head", [False, True])
def test_merged_equals_unmerged_and_survives_saving(tiny_backbone, tmp_path, train_head, lora):
    wrapped = random_adapter(tiny_backbone, train_head=train_head, **lora)
    expected = wrapped(IDS).logits
    save_lora(wrapped, tmp_path, backbone="toy", revision=None)
    again = load_lora(load_masked_lm(tiny_backbone)[0], tmp_path).eval()
    torch.testing.assert_close(again(IDS).logits, expected)
    plain = PeftModel.from_pretrained(load_masked_lm(tiny_backbone)[0], tmp_path).eval()
    torch.testing.assert_close(plain(IDS).logits, expected)
    merged = merge_lora(wrapped)
    torch.testing.assert_close(merged(IDS).logits, expected, atol=1e-5, rtol=1e-4)
    head = merged.cls.predictions
    assert head.decoder.weight is merged.bert.embeddings.word_embeddings.weight
    assert {file.name for file in tmp_path.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip


@pytest.fixture(scope="module")
def bert_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BERT-base's shape but for a small vocabulary: 12 layers, hidden size 768."""
    folder = tmp_path_factory.mktemp("bert-base")
    config = BertConfig(vocab_size=150, num_hidden_layers=12, hidden_size=768)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "shape", ["tiny_backbone", pytest.param("bert_base", marks=pytest.mark.slow)]
)
def test_the_prior_arts_folder_loads_onto_a_masked_lm_and_merges(shape, request, tmp_path):
    """peft, r=1 on query and value, TOKEN_CLS, which writes `modules_to_save` of a classifier."""
    tiny_backbone = request.getfixturevalue(shape)
    model = BertForTokenClassification.from_pretrained(tiny_backbone)
    config = LoraConfig(
        r=1, lora_alpha=1, lora_dropout=0.1, target_modules=["query", "value"],
        task_type=TaskType.TOKEN_CLS,
    )  # fmt: skip
    theirs = get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    theirs.save_pretrained(tmp_path)
    assert (
        "classifier"
        in json.loads((tmp_path / "adapter_config.json").read_text())["modules_to_save"]
    )
    loaded = load_lora(load_masked_lm(tiny_backbone)[0], tmp_path).eval()
    hidden = theirs.base_model.model.bert(IDS).last_hidden_state
    ours = loaded.base_model.model.bert(IDS).last_hidden_state
    torch.testing.assert_close(ours, hidden)
    layers = loaded.base_model.model.config.num_hidden_layers
    assert sum("lora_A" in name for name, _ in loaded.named_parameters()) == 2 * layers
    assert not torch.allclose(hidden, load_masked_lm(tiny_backbone)[0].bert(IDS)[0], atol=1e-2)
    expected = loaded(IDS).logits
    torch.testing.assert_close(merge_lora(loaded)(IDS).logits, expected, atol=1e-5, rtol=1e-4)


def test_dora_with_dropout_is_refused(tiny_backbone):
    with pytest.raises(RecipeError, match="does not go with dora"):
        model, _ = load_masked_lm(tiny_backbone)
        attach_lora(model, LoraSettings(dora=True, dropout=0.1), train_head=False, seed=1)


def test_no_adapter_or_one_that_does_not_fit(tiny_backbone, tmp_path):
    with pytest.raises(ArtifactError, match=r"no adapter_config\.json"):
        load_lora(load_masked_lm(tiny_backbone)[0], tmp_path)
    save_lora(
        random_adapter(tiny_backbone, train_head=False), tmp_path, backbone="x", revision=None
    )
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["r"] = 3
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="does not fit") as caught:
        load_lora(load_masked_lm(tiny_backbone)[0], tmp_path)
    assert "\n" not in str(caught.value)
