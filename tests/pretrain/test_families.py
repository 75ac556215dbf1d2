"""Every family: the stock model's scores and gradients, adapters, heads, tokenizers, whole runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch.nn import functional
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

from tests.pretrain.conftest import (
    FAMILIES,
    WITH_DESCRIPTION,
    family_tokenizer,
    save_family,
    write_toy_blocks,
)
from trialese.errors import ArtifactError
from trialese.pretrain.adapt import build_base, train_adapter
from trialese.pretrain.backbone import load_backbone, load_masked_lm, longest_text
from trialese.pretrain.encoder import MaskedEncoder, PlainMaskedEncoder, masked_encoder
from trialese.pretrain.heldout import read_rows
from trialese.pretrain.lora import attach_lora, load_lora, merge_lora, save_lora, seeded_dropout
from trialese.pretrain.masking import Vocabulary
from trialese.settings import BackboneSettings, LoraSettings

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

BLOCKS, TOKENS = 3, 20


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny masked-LM of every family; do not write to them."""
    home = tmp_path_factory.mktemp("families")
    return {family: save_family(home / family, family) for family in FAMILIES}


def adapted(folder: Path, **lora: Any) -> Any:
    """The masked-LM with LoRA whose B is not 0, its head trained along."""
    model, _ = load_masked_lm(folder)
    model.requires_grad_(False)
    settings = LoraSettings(**{"rank": 4, "alpha": 8, **lora})
    wrapped = attach_lora(model, settings, train_head=True, seed=3)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.1, generator=generator)
    return wrapped


def case_of(model: Any) -> dict[str, torch.Tensor]:
    """Ids with some padding, positions, targets."""
    config = model.config
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(5, config.vocab_size, (BLOCKS, TOKENS), generator=generator)
    inputs[1, 15:] = config.pad_token_id
    positions = torch.tensor([[1, 3, 9], [0, 7, 14], [2, 18, 19]])
    attended = torch.ones(BLOCKS, TOKENS, dtype=torch.bool)
    attended[1, 15:] = False
    targets = torch.randint(5, config.vocab_size, (9,), generator=generator)
    return {"inputs": inputs, "attended": attended, "positions": positions, "targets": targets}


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_gradients_are_those_of_the_stock_model(family: str, folders: dict[str, Path]):
    model = adapted(folders[family])
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert sum("lora_A" in name for name in trained) >= 4
    assert any("lora_" not in name for name in trained)  # the head
    case = case_of(model)
    scores = model(input_ids=case["inputs"], attention_mask=case["attended"].long()).logits
    stock = scores[torch.arange(BLOCKS)[:, None], case["positions"]].flatten(0, 1)
    expected = torch.autograd.grad(
        functional.cross_entropy(stock, case["targets"]), list(trained.values())
    )
    kind = MaskedEncoder if family in WITH_DESCRIPTION else PlainMaskedEncoder
    levers: list[dict[str, Any]] = [{}]
    if kind is MaskedEncoder:
        levers = [{"explicit_attention": False}, {"packed_rows": 60}, {"plain": True}]
    for options in levers:
        encoder = masked_encoder(model, **options)
        assert type(encoder) is kind
        ours = encoder.logits(case["inputs"], case["attended"], case["positions"])
        torch.testing.assert_close(ours, stock, atol=5e-6, rtol=1e-5)
        found = torch.autograd.grad(
            functional.cross_entropy(ours, case["targets"]), list(trained.values())
        )
        for name, one, other in zip(trained, found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-3, msg=name)
        kept = torch.tensor([0, 4, 8])
        some = encoder.logits(case["inputs"], case["attended"], case["positions"], kept=kept)
        torch.testing.assert_close(some, ours[kept], atol=1e-6, rtol=1e-5)


def test_local_attention_in_pieces_is_the_stock_models(folders: dict[str, Path], monkeypatch):
    widths: list[int] = []
    pieces = MaskedEncoder._attend_near

    def counting(*given: Any) -> torch.Tensor:
        widths.append(given[4].shape[-1])
        return pieces(*given)

    monkeypatch.setattr(MaskedEncoder, "_attend_near", counting)
    model = adapted(folders["modernbert"])
    assert model.config.sliding_window == 4
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(5, model.config.vocab_size, (2, 40), generator=generator)
    attended = torch.ones(2, 40, dtype=torch.bool)
    attended[1, 29:] = False
    positions = torch.tensor([[0, 7, 8, 21, 39], [3, 11, 16, 20, 28]])
    targets = torch.arange(10) + 6
    encoder = masked_encoder(model)
    for mask in (attended, None):
        stock = model(input_ids=inputs, attention_mask=None if mask is None else mask.long()).logits
        stock = stock[torch.arange(2)[:, None], positions].flatten(0, 1)
        ours = encoder.logits(inputs, mask, positions)
        torch.testing.assert_close(ours, stock, atol=5e-6, rtol=1e-5)
        expected, found = (
            torch.autograd.grad(functional.cross_entropy(each, targets), list(trained.values()))
            for each in (stock, ours)
        )
        for name, one, other in zip(trained, found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-3, msg=name)
    assert set(widths) == {16}  # of 40 keys
    texts = torch.tensor([1] * 11 + [2] * 3 + [3] * 21 + [0] * 5)[None]
    shared = encoder.logits(inputs[:1], texts, torch.tensor([[0, 10, 11, 13, 14, 34]]))
    alone = [
        encoder.logits(inputs[:1, start:stop], None, torch.tensor([[0, stop - start - 1]]))
        for start, stop in ((0, 11), (11, 14), (14, 35))
    ]
    torch.testing.assert_close(shared, torch.cat(alone), atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_weights_trained_have_the_stock_gradients(family: str, folders: dict[str, Path]):
    model, _ = load_masked_lm(folders[family])
    model.requires_grad_(True)
    case = case_of(model)
    scores = model(input_ids=case["inputs"], attention_mask=case["attended"].long()).logits
    stock = scores[torch.arange(BLOCKS)[:, None], case["positions"]].flatten(0, 1)
    named = dict(model.named_parameters())

    def gradients(scores: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = functional.cross_entropy(scores, case["targets"])
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        return {name: g for name, g in zip(named, found, strict=True) if g is not None}

    expected = gradients(stock)
    ours = masked_encoder(model).logits(case["inputs"], case["attended"], case["positions"])
    found = gradients(ours)
    for name, gradient in expected.items():
        other = found.get(name, torch.zeros_like(gradient))  # token type 1 and the like: all 0
        torch.testing.assert_close(other, gradient, atol=2e-6, rtol=1e-3, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_that_share_a_block_read_as_if_alone(family: str, folders: dict[str, Path]):
    model = adapted(folders[family])
    encoder = masked_encoder(model)
    ids = case_of(model)["inputs"][0]
    texts = [ids[:9], ids[9:13], ids[13:18]]
    padding = torch.full((2,), model.config.pad_token_id)
    together = torch.cat([*texts, padding])[None]
    segments = torch.tensor([1] * 9 + [2] * 4 + [3] * 5 + [0] * 2, dtype=torch.int16)[None]
    shared = encoder.logits(together, segments, torch.tensor([[1, 8, 10, 13, 17]]))
    places = [torch.tensor([[1, 8]]), torch.tensor([[1]]), torch.tensor([[0, 4]])]
    alone = [
        encoder.logits(text[None], None, place) for text, place in zip(texts, places, strict=True)
    ]
    torch.testing.assert_close(shared, torch.cat(alone), atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_merges_and_its_folder_loads(
    family: str, folders: dict[str, Path], tmp_path: Path
):
    model = adapted(folders[family])
    case = case_of(model)
    expected = model.eval()(input_ids=case["inputs"]).logits
    save_lora(model, tmp_path / "adapter", backbone="toy", revision=None)
    tuned = PeftModel.from_pretrained(
        AutoModelForMaskedLM.from_pretrained(folders[family]), tmp_path / "adapter"
    ).eval()
    torch.testing.assert_close(tuned(input_ids=case["inputs"]).logits, expected)
    merged = merge_lora(model)
    torch.testing.assert_close(
        merged(input_ids=case["inputs"]).logits, expected, atol=1e-4, rtol=1e-4
    )
    decoder = merged.get_output_embeddings()
    if family != "deberta-v2":
        assert decoder.weight is merged.get_input_embeddings().weight
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(
        again(input_ids=case["inputs"]).logits, expected, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_head_is_made_from_the_seed(family: str, tmp_path: Path):
    folder = save_family(tmp_path / "bare", family, head=False)
    backbone = load_backbone(BackboneSettings(name=str(folder)), seed=1)
    assert backbone.new_head
    whole = load_backbone(BackboneSettings(name=str(save_family(tmp_path / "whole", family))))
    assert not whole.new_head


@pytest.mark.parametrize("family", ["roberta", "mpnet", "modernbert", "distilbert", "deberta-v2"])
def test_a_whole_run_from_no_head_that_is_stopped_ends_in_the_same_bytes(
    family: str, toy_settings: Any, tmp_path: Path
):
    folder = save_family(tmp_path / "bare", family, head=False)
    blocks = write_toy_blocks(tmp_path / "blocks", folder)
    settings = toy_settings(folder, backbone_dropout=0.1, lora=LoraSettings(rank=4, dropout=0.1))

    class KilledError(Exception):
        pass

    def kill(what: str, done: int, total: int | None) -> None:
        if "adapt" in what and done == 5:
            raise KilledError

    for name, stop in (("one", None), ("two", kill)):
        build_base(blocks, settings, tmp_path / name / "base")
        if stop is not None:
            with pytest.raises(KilledError):
                train_adapter(
                    blocks, tmp_path / name / "base", settings, tmp_path / name / "adapter",
                    progress=stop,
                )  # fmt: skip
        train_adapter(blocks, tmp_path / name / "base", settings, tmp_path / name / "adapter")
    for stage in ("base", "adapter"):
        found = [
            (tmp_path / name / stage / "model" / "model.safetensors").read_bytes()
            for name in ("one", "two")
        ]
        assert found[0] == found[1]
    rows = read_rows(tmp_path / "one" / "base" / "metrics.jsonl")
    losses = [row["mask_loss"] for row in rows if row["split"] == "tune"]
    assert losses[-1] < losses[0] and all(row["new_head"] for row in rows)


def test_dropout_of_the_plain_way_follows_from_its_generator(folders: dict[str, Path]):
    model = adapted(folders["distilbert"], dropout=0.25)
    encoder, case = masked_encoder(model, dropout=0.1), case_of(model)
    generator = torch.Generator()

    def scores(seed: int) -> torch.Tensor:
        drop = seeded_dropout(generator.manual_seed(seed))
        found = encoder.logits(case["inputs"], case["attended"], case["positions"], drop)
        return found.detach()

    state = torch.random.get_rng_state()
    assert torch.equal(scores(5), scores(5)) and not torch.equal(scores(5), scores(6))
    assert torch.equal(torch.random.get_rng_state(), state)
    undropped = encoder.logits(case["inputs"], case["attended"], case["positions"])
    assert not torch.equal(undropped, scores(5)) and not model.training


WORDY = [
    "Café-based (il-6) trials, 12 mg/day; naïve patients' 3rd dose!",
    "a study of the drug in women: phase 2b/3",
]


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_whole_words_are_the_tokenizers_own(family: str):
    tokenizer = family_tokenizer(family)
    vocabulary = Vocabulary.of(tokenizer)
    for text in WORDY:
        encoded = tokenizer.backend_tokenizer.encode(text)
        words, ids = encoded.word_ids, np.array([encoded.ids])
        special = np.array([encoded.special_tokens_mask], dtype=bool)
        found = vocabulary.continues(ids, special)[0]
        own = [
            place > 0 and words[place] is not None and words[place] == words[place - 1]
            for place in range(len(words))
        ]
        assert found.tolist() == own, list(zip(encoded.tokens, found, own, strict=True))
        assert any(own)


def test_positions_are_counted_from_where_they_begin(folders: dict[str, Path]):
    lengths = {family: longest_text(load_masked_lm(folders[family])[0]) for family in FAMILIES}
    assert lengths["bert"] == 72 and lengths["roberta"] == lengths["mpnet"] == 70


@pytest.mark.parametrize("family", ["data2vec-text", "ibert", "longformer", "roberta-prelayernorm"])
def test_positions_of_families_without_description_begin_behind_the_padding_too(family: str):
    sizes = {"vocab_size": 60, "pad_token_id": 1, **FAMILIES["bert"]}
    model = AutoModelForMaskedLM.from_config(CONFIG_MAPPING[family](**sizes)).eval()
    assert longest_text(model) == 70
    ids = torch.full((1, 70), 7)
    masked_encoder(model).logits(ids, None, torch.tensor([[69]]))


def test_an_adapter_of_another_model_is_refused_in_one_line(
    folders: dict[str, Path], tmp_path: Path
):
    made: dict[str, Path] = {**folders}
    made["deep"] = save_family(tmp_path / "deep", "bert", num_hidden_layers=3)
    made["wide"] = save_family(tmp_path / "wide", "bert", hidden_size=48)
    for name in ("bert", "deep", "wide", "modernbert"):
        save_lora(adapted(made[name]), tmp_path / "to" / name, backbone=name, revision=None)
    for adapter, model, words in (
        ("bert", "roberta", "it adapts layers that a roberta model has not.; give bert, for which"),
        ("modernbert", "distilbert", "layers that a distilbert model has not.; give modernbert"),
        ("bert", "modernbert", "layers that a modernbert model has not"),
        ("bert", "deep", r"layer.2.attention.output.dense.lora_A.weight is none; .* needs 4x32"),
        ("deep", "bert", r"layer.2.attention.output.dense.lora_A.weight is 4x32; .* needs none"),
        ("wide", "bert", r"lora_A.weight is 4x48; the model needs 4x32.; give wide"),
    ):
        with pytest.raises(ArtifactError, match=words) as caught:
            load_lora(load_masked_lm(made[model])[0], tmp_path / "to" / adapter)
        assert "\n" not in str(caught.value)
    shutil.copytree(tmp_path / "to" / "bert", tmp_path / "up" / "adapter")
    with pytest.raises(ArtifactError, match=f"no adapter; give {tmp_path}/up/adapter"):
        load_lora(load_masked_lm(made["bert"])[0], tmp_path / "up")


@pytest.mark.parametrize(
    ("described", "words"),
    [
        ({"model_type": "gpt2"}, "a gpt2 model, but trialese adapts encoders"),
        ({"model_type": "llama"}, "a llama model, but trialese adapts encoders"),
        ({"model_type": "t5"}, "a t5 model, which encodes and decodes"),
        ({"model_type": "bart"}, "a bart model, which encodes and decodes"),
        ({"model_type": "bert", "is_decoder": True}, "a bert model, but trialese adapts encoders"),
        ({"model_type": "own", "auto_map": {"AutoModel": "code.Own"}}, "code of its own"),
        ({"model_type": "unheard"}, "names no known model .unheard"),
        ({}, "names no known model"),
    ],
)
def test_what_is_no_encoder_is_refused_in_one_line(
    described: dict[str, Any], words: str, folders: dict[str, Path], tmp_path: Path
):
    for file in folders["bert"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(ArtifactError, match=words) as caught:
        load_masked_lm(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
