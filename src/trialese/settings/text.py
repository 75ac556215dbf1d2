"""Settings of collect and corpus: where records come from, and what becomes of their text."""

from __future__ import annotations

from typing import Literal

from trialese.settings.section import Count, IsoDate, Section, Share

__all__ = [
    "BlockSettings",
    "BoilerplateSettings",
    "CollectSettings",
    "CorpusSettings",
    "DedupSettings",
    "FilterSettings",
    "RenderSettings",
    "SampleSettings",
    "SplitSettings",
]


class SampleSettings(Section, frozen=True, kw_only=True):
    """The synthetic source."""

    studies: Count = 2000
    seed: int = 7
    from_date: IsoDate = "2018-01-01"
    to_date: IsoDate = "2024-12-31"


class CollectSettings(Section, frozen=True, kw_only=True):
    """Where registry records come from."""

    source: Literal["sample", "registry", "files"] = "sample"
    paths: tuple[str, ...] = ()
    """For `files`; relative to the working directory."""
    url: str = "https://clinicaltrials.gov/api/v2"
    since: IsoDate | None = None
    """First posted on or after this date (registry source)."""
    updated_since: IsoDate | None = None
    query: str | None = None
    ids: str | None = None
    """Only the studies whose NCT numbers stand in this file (registry source)."""
    whole: bool = False
    """The whole registry: as one zip where the registry gives it, else page by page."""
    new_since: str | None = None
    """Keep only what an earlier snapshot, or a file of NCT numbers, does not hold as it is."""
    page_size: Count = 1000
    pause_seconds: float = 1.0
    timeout_seconds: float = 60.0
    retries: int = 6
    sample: SampleSettings = SampleSettings()


class RenderSettings(Section, frozen=True, kw_only=True):
    """Trial -> text."""

    fields: tuple[str, ...] = (
        "brief_title",
        "official_title",
        "brief_summary",
        "detailed_description",
        "eligibility_criteria",
    )
    withhold: tuple[str, ...] = ()
    """Fields never rendered, and whose text is cut out where another field repeats it verbatim."""
    markers: bool = True
    """A section name before each field, such as "Eligibility criteria:"."""
    cleaning: Literal["faithful", "published"] = "faithful"
    """`published` is the prior art's clean-up, which deletes `[](){}:@#$%^&*` and digits' signs."""


class FilterSettings(Section, frozen=True, kw_only=True):
    """Which documents are kept."""

    min_characters: int = 200
    max_characters: int = 200_000
    min_letters_share: Share = 0.5


class BoilerplateSettings(Section, frozen=True, kw_only=True):
    """Paragraphs that stand in many trials (site contacts, consent formulas)."""

    min_words: int = 8
    """Shorter lines are headings and short criteria, not boilerplate."""
    min_documents: int = 50
    """A paragraph in at least so many documents is counted as boilerplate."""
    listed: int = 100
    """So many of the most frequent ones are written to `boilerplate.parquet`."""
    cap_documents: int | None = None
    """Keep each paragraph in so many documents (by ascending id) and cut it from the rest."""


class DedupSettings(Section, frozen=True, kw_only=True):
    """Exact and near-duplicate clusters (MinHash LSH over word shingles)."""

    near: bool = True
    jaccard: float = 0.8
    shingle_words: int = 5
    permutations: int = 128
    drop: Literal["none", "exact", "near"] = "exact"
    """Copies removed from a corpus: none, those of equal words, or all but one of each cluster."""
    seed: int = 7


class SplitSettings(Section, frozen=True, kw_only=True):
    """Cluster -> split: by hash, or the youngest clusters held out."""

    by: Literal["hash", "date"] = "hash"
    """`date`: a cluster's split follows from the earliest `first_posted` among its trials."""
    tune_share: Share = 0.05
    test_share: Share = 0.10
    tune_from: IsoDate | None = None
    """`date` only: clusters first posted from this date on, but before `test_from`, are tune."""
    test_from: IsoDate | None = None
    """`date` only: clusters first posted from this date on are test."""
    seed: int = 7


class BlockSettings(Section, frozen=True, kw_only=True):
    """Documents -> blocks of token ids."""

    block_tokens: Count = 128
    packing: Literal["across", "within"] = "across"
    """`across`: documents are concatenated and cut; `within`: none crosses a block, ends padded."""
    truncate_tokens: int | None = None
    """Cut documents to so many tokens, special ones included (the prior art: 2109)."""
    drop_remainder_documents: int | None = None
    """`across` only: concatenate so many documents at a time and drop what does not fill a block
    (the prior art: 16, through `group_texts`). Tokens lost either way are counted."""


class CorpusSettings(Section, frozen=True, kw_only=True):
    """Clean text, clusters, splits and blocks."""

    new_from: IsoDate | None = "2022-12-04"
    """Trials first posted on or after this date are *new*, the rest *old*; None: all are new."""
    render: RenderSettings = RenderSettings()
    filters: FilterSettings = FilterSettings()
    boilerplate: BoilerplateSettings = BoilerplateSettings()
    dedup: DedupSettings = DedupSettings()
    split: SplitSettings = SplitSettings()
    blocks: BlockSettings = BlockSettings()
