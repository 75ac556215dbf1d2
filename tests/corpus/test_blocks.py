"""The blocks artifact: one folder for each era and split, every document's tokens in it."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from trialese.artifacts import read_manifest
from trialese.corpus.assemble import assemble_corpus
from trialese.corpus.blocks import open_blocks
from trialese.corpus.packing import build_blocks
from trialese.corpus.store import read_documents
from trialese.errors import ArtifactError, RecipeError
from trialese.records import SPLITS, Corpus, Trial
from trialese.settings import BlockSettings, CorpusSettings, FilterSettings, SplitSettings


def make_tokenizer() -> Tokenizer:
    names = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *(f"w{number}" for number in range(50))]
    tokenizer = Tokenizer(
        models.WordLevel({name: place for place, name in enumerate(names)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


TOKENIZER = make_tokenizer()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    trials = [
        Trial(
            nct_id=f"NCT{number:08d}",
            brief_summary=" ".join(f"w{(number * step) % 50}" for step in range(60 + number)),
            first_posted="2024-01-01" if number % 3 else "2020-01-01",
        )
        for number in range(40)
    ]
    settings = CorpusSettings(
        split=SplitSettings(tune_share=0.3, test_share=0.3),
        filters=FilterSettings(min_letters_share=0.0),
    )
    return assemble_corpus(trials, settings, tmp_path_factory.mktemp("run") / "corpus")


@pytest.mark.parametrize("packing", ["across", "within"])
def test_every_token_is_in_the_blocks_of_its_split(
    corpus: Corpus, tmp_path: Path, packing: str
) -> None:
    settings = BlockSettings(block_tokens=32, packing=packing)  # type: ignore[arg-type]
    manifest = build_blocks(corpus, TOKENIZER, settings, tmp_path / "b", tokenizer_digest="d")
    assert manifest.kind == "blocks"
    assert manifest.inputs == {"corpus": corpus.manifest.digest, "tokenizer": "d"}
    expected = {}
    for era in ("old", "new"):
        for split in SPLITS:
            texts = [doc.text for doc in read_documents(corpus, era=era, split=split)]  # type: ignore[arg-type]
            wanted = np.bincount(
                np.concatenate([TOKENIZER.encode(t, add_special_tokens=False).ids for t in texts]),
                minlength=60,
            )
            blocks = open_blocks(tmp_path / "b", era=era, split=split)  # type: ignore[arg-type]
            assert blocks is not None
            found = np.bincount(blocks.ids[~blocks.special], minlength=60)
            assert found.tolist() == wanted.tolist()
            expected[f"{era}-{split}"] = int(wanted.sum())
            assert np.array_equal(blocks.ids == blocks.pad_id, blocks.special & (blocks.ids == 0))
    folders = manifest.counts["folders"]
    assert {name: folder["content_tokens"] for name, folder in folders.items()} == expected
    assert manifest.counts["content_tokens"] == sum(expected.values())
    assert 0 < manifest.counts["padding_share"] < 0.5


def test_equal_corpora_give_equal_bytes(corpus: Corpus, tmp_path: Path) -> None:
    one = build_blocks(corpus, TOKENIZER, BlockSettings(), tmp_path / "1", tokenizer_digest="d")
    two = build_blocks(corpus, TOKENIZER, BlockSettings(), tmp_path / "2", tokenizer_digest="d")
    assert one == two


def test_an_era_without_trials_has_no_blocks(tmp_path: Path) -> None:
    trials = [Trial(nct_id="NCT1", brief_summary="w1 w2 w3 " * 40, first_posted="2024-01-01")]
    settings = CorpusSettings(filters=FilterSettings(min_letters_share=0.0))
    corpus = assemble_corpus(trials, settings, tmp_path / "corpus")
    build_blocks(corpus, TOKENIZER, BlockSettings(), tmp_path / "b", tokenizer_digest="d")
    assert open_blocks(tmp_path / "b", era="old", split="train") is None


def test_senseless_settings_are_refused_before_anything_is_written(
    corpus: Corpus, tmp_path: Path
) -> None:
    settings = BlockSettings(packing="within", drop_remainder_documents=16)
    with pytest.raises(RecipeError, match="drop_remainder_documents"):
        build_blocks(corpus, TOKENIZER, settings, tmp_path / "b", tokenizer_digest="d")
    assert not (tmp_path / "b").exists()


def test_a_corpus_is_no_blocks(corpus: Corpus) -> None:
    with pytest.raises(ArtifactError, match="a blocks is needed"):
        open_blocks(corpus.path, era="new", split="train")
    assert read_manifest(corpus.path).kind == "corpus"
