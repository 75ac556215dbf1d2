"""The public names, as type checkers see them; `__init__.py` loads each on first use."""

from .collect.collection import collect_snapshot as collect_snapshot
from .collect.diff import compare_snapshots as compare_snapshots
from .collect.snapshot import open_snapshot as open_snapshot
from .collect.snapshot import read_trials as read_trials
from .corpus.assemble import build_corpus as build_corpus
from .corpus.blocks import open_blocks as open_blocks
from .corpus.clean import clean_text as clean_text
from .corpus.packing import build_blocks as build_blocks
from .corpus.render import render_document as render_document
from .corpus.store import open_corpus as open_corpus
from .corpus.store import read_documents as read_documents
from .errors import ArtifactError as ArtifactError
from .errors import LeakageError as LeakageError
from .errors import RecipeError as RecipeError
from .errors import RecordError as RecordError
from .errors import RegistryError as RegistryError
from .errors import TrialeseError as TrialeseError
from .pipeline.evaluate import judge_classifiers as judge_classifiers
from .pipeline.stages import run_recipe as run_recipe
from .predictions import load_predictions as load_predictions
from .predictions import save_predictions as save_predictions
from .pretrain.adapt import build_base as build_base
from .pretrain.adapt import tokenise_corpus as tokenise_corpus
from .pretrain.adapt import train_adapter as train_adapter
from .pretrain.backbone import load_backbone as load_backbone
from .pretrain.backbone import load_tokenizer as load_tokenizer
from .pretrain.backbone import tokenizer_digest as tokenizer_digest
from .recipe import Recipe as Recipe
from .recipe import load_recipe as load_recipe
from .recipe import parse_recipe as parse_recipe
from .tasks.classifier import Classifier as Classifier
from .tasks.finetune import finetune as finetune
from .tasks.fit import fit_classifier as fit_classifier
from .tasks.folds import build_examples as build_examples
from .tasks.folds import task_named as task_named
from .tasks.labelled import read_labelled as read_labelled
from .tasks.linear import LinearClassifier as LinearClassifier
from .tasks.predict import load_classifier as load_classifier
from .thresholds import choose_thresholds as choose_thresholds
from .verdict.judge import judge as judge
from .verdict.report import load_verdicts as load_verdicts
from .verdict.report import write_report as write_report
from .verdict.text import format_table as format_table

__version__: str
