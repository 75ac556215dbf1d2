"""Toys that several rooms share: a two-layer BERT with a tiny vocabulary, built here."""

from __future__ import annotations

import importlib.util
import shutil
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (  # noqa: SIM905 - a list of fifty quoted words is harder to read
    "a study of the drug in patients with cancer diabetes placebo dose trial treatment safety "
    "efficacy randomized blind women men adults children stopped low recruitment slow accrual "
    "funding sponsor decision lack interim analysis futility covid pandemic criteria inclusion "
    "exclusion eligibility age years pregnant breast prostate asthma vaccine outcome phase"
).split()


def load_script(name: str) -> ModuleType:
    """A script of the repository that is in no package, such as "docs/tree.py", as a module."""
    path = Path(__file__).parents[1] / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny_vocabulary() -> dict[str, int]:
    """Token -> id: five special tokens, some words, and every ASCII character as word piece."""
    characters = [c for c in string.printable if not c.isspace()]
    pieces = [f"##{c}" for c in string.ascii_lowercase + string.digits]
    tokens = dict.fromkeys([*SPECIAL, *WORDS, *characters, *pieces])
    return {token: position for position, token in enumerate(tokens)}


def tiny_tokenizer() -> Any:
    """A `PreTrainedTokenizerFast` over `tiny_vocabulary`, lower-casing, with BERT's template."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = tiny_vocabulary()
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
        model_max_length=64,
    )


def tiny_config(**changes: Any) -> Any:
    """Configuration of the toy: two layers, hidden size 32, 64 positions, dropout 0.1."""
    from transformers import BertConfig

    return BertConfig(
        **{
            "vocab_size": len(tiny_vocabulary()),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            **changes,
        }
    )


def save_toy(folder: Path, *, head: bool, seed: int = 0) -> Path:
    """The toy with its tokenizer in `folder`, as a masked-LM or without a head."""
    import torch
    from transformers import BertForMaskedLM, BertModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = (BertForMaskedLM if head else BertModel)(tiny_config())
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny randomly initialised masked-LM with its tokenizer; do not write to it."""
    return save_toy(tmp_path_factory.mktemp("backbone") / "tiny-bert", head=True)


@pytest.fixture(scope="session")
def headless_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without a masked-LM head (a plain encoder); do not write to it."""
    return save_toy(tmp_path_factory.mktemp("backbone") / "tiny-encoder", head=False)


TOY_RECIPE = """
name = "toy"
folder = "{folder}"
[collect.sample]
studies = 160
[corpus.blocks]
block_tokens = 32
[pretrain]
backbone = {{ name = "{backbone}" }}
head_phase = {{ steps = 2 }}
base_phase = {{ steps = 2 }}
adapt_phase = {{ steps = 2 }}
heldout = {{ max_blocks = 4, every_steps = 1 }}
[tasks.stop_reasons]
run_folds = 1
finetune = {{ epochs = 1, max_tokens = 16 }}
[tasks.sex]
max_trials = 100
run_folds = 1
finetune = {{ epochs = 1, max_tokens = 32 }}
[panel]
trials = 100
max_tokens = 32
folds = 2
[verdict]
resamples = 100
"""


@pytest.fixture(scope="session")
def toy(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The recipe of a finished run of every stage, with `toy.toml` in its folder; read only."""
    from trialese.pipeline.stages import run_recipe
    from trialese.recipe import load_recipe

    folder = tmp_path_factory.mktemp("runs")
    text = TOY_RECIPE.format(folder=folder, backbone=tiny_backbone)
    (folder / "toy.toml").write_text(text, encoding="utf-8")
    recipe = load_recipe(folder / "toy.toml")
    run_recipe(recipe)
    return recipe


@pytest.fixture(scope="module")
def open_chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Capabilities -> Debian's Chromium, headless, with a fresh profile and nothing of its own
    to ask anyone. Those that a module opened are closed after it."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs Debian's chromium and chromium-driver")
    flags = (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    )  # fmt: skip
    opened = []

    def open_one(**capabilities: Any) -> Any:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (*flags, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
            options.add_argument(flag)
        for name, value in capabilities.items():
            options.set_capability(name, value)
        opened.append(webdriver.Chrome(options, webdriver.ChromeService(driver)))
        return opened[-1]

    yield open_one
    for each in opened:
        each.quit()
