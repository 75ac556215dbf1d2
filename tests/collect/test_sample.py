import collections
import itertools
import json

import pytest

from trialese.collect.parse import parse_trial
from trialese.collect.sample import _WORDS, ORGANISATION, REASONS, SampleSource, sample_study
from trialese.errors import RecipeError
from trialese.settings import SampleSettings


@pytest.fixture(scope="module")
def trials():
    return [parse_trial(raw) for raw in SampleSource(SampleSettings()).studies()]


def test_a_study_is_a_pure_function_of_seed_and_number():
    settings = SampleSettings(studies=3)
    more = SampleSettings(studies=300)
    assert sample_study(settings, 2) == sample_study(more, 2)
    assert sample_study(settings, 2) != sample_study(SampleSettings(seed=8), 2)
    streamed = [raw.data for raw in SampleSource(settings).studies()]
    assert streamed == [sample_study(settings, i) for i in range(3)]


def test_it_is_the_same_on_every_machine_and_version():
    study = sample_study(SampleSettings(), 11)
    assert study["protocolSection"]["identificationModule"]["nctId"] == "NCT90000011"
    assert json.loads(json.dumps(study)) == study


def test_every_study_says_that_it_is_synthetic(trials):
    study = sample_study(SampleSettings(), 0)
    assert study["synthetic"] is True
    organisation = study["protocolSection"]["identificationModule"]["organization"]
    assert organisation["fullName"] == ORGANISATION
    assert all(trial.synthetic for trial in trials)
    assert all(trial.nct_id.startswith("NCT9") for trial in trials)
    assert all("(synthetic)" in trial.lead_sponsor for trial in trials)


def test_it_streams():
    source = SampleSource(SampleSettings(studies=10_000_000))
    assert source.total == 10_000_000
    assert len(list(itertools.islice(source.studies(), 5))) == 5


def test_dates_stay_in_their_window(trials):
    settings = SampleSettings()
    assert min(trial.first_posted for trial in trials) >= settings.from_date
    assert max(trial.first_posted for trial in trials) <= settings.to_date
    day = SampleSettings(studies=5, from_date="2020-02-29", to_date="2020-02-29")
    for raw in SampleSource(day).studies():
        assert parse_trial(raw).first_posted == "2020-02-29"


def test_new_drugs_appear_only_in_new_trials(trials):
    def tells_of_new(trial):
        return any(drug in trial.brief_summary.lower() for drug in _WORDS.new_drugs)

    new = [trial for trial in trials if trial.first_posted >= _WORDS.new_from]
    old = [trial for trial in trials if trial.first_posted < _WORDS.new_from]
    assert 0.2 < len(new) / len(trials) < 0.4
    assert not any(tells_of_new(trial) for trial in old)
    assert sum(tells_of_new(trial) for trial in new) > len(new) / 2


def test_stop_reasons_have_their_labels(trials):
    stopped = [trial for trial in trials if trial.why_stopped]
    assert 0.35 < len(stopped) / len(trials) < 0.45
    assert all(bool(trial.synthetic_stop_reasons) == bool(trial.why_stopped) for trial in trials)
    assert all(
        trial.overall_status in ("TERMINATED", "WITHDRAWN", "SUSPENDED") for trial in stopped
    )
    counts = collections.Counter(x for trial in stopped for x in trial.synthetic_stop_reasons)
    assert set(counts) == set(REASONS)
    assert len(REASONS) == 17
    assert counts.most_common(1)[0][0] == "Insufficient_Enrollment"
    assert any(len(trial.synthetic_stop_reasons) > 1 for trial in stopped)
    texts = [trial.why_stopped for trial in stopped]
    assert 0.1 < 1 - len(set(texts)) / len(texts) < 0.5  # exact duplicates, but not only
    assert not any("{" in text for text in texts)


def test_covid_stops_nothing_before_2020(trials):
    covid = [trial for trial in trials if "Covid19" in trial.synthetic_stop_reasons]
    assert covid
    assert min(trial.last_update_posted for trial in covid) >= "2020"


def test_sex_agrees_with_the_criteria_but_not_always(trials):
    women = [trial for trial in trials if trial.sex == "Female"]
    men = [trial for trial in trials if trial.sex == "Male"]
    cues = ("women", "menopausal", "pregnan", "uterus", "ovary")
    assert sum(any(c in t.eligibility_criteria.lower() for c in cues) for t in women) > 0.9 * len(
        women
    )
    assert not any("pregnan" in trial.eligibility_criteria.lower() for trial in men)
    one_sex = {condition.name for condition in _WORDS.conditions if condition.sex != "ALL"}
    assert any(trial.conditions[0] in one_sex and trial.sex == "All" for trial in trials)
    assert any(trial.sex is None for trial in trials)


def test_criteria_have_what_cleaning_must_keep_and_undo(trials):
    text = "\n".join(trial.eligibility_criteria for trial in trials)
    for mark in ("≥", "%", "\\>", "\\<", "\\[", "1\\.", "\n* ", "Exclusion Criteria"):
        assert mark in text
    assert "{" not in text


def test_some_studies_repeat_an_earlier_one(trials):
    texts = collections.Counter(trial.eligibility_criteria for trial in trials)
    repeated = sum(count - 1 for count in texts.values())
    assert 0.01 < repeated / len(trials) < 0.06


@pytest.mark.parametrize(
    "settings",
    [
        SampleSettings(studies=0),
        SampleSettings(studies=10_000_001),
        SampleSettings(from_date="yesterday"),
        SampleSettings(from_date="2025-01-01", to_date="2024-01-01"),
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(RecipeError, match=r"collect\.sample"):
        SampleSource(settings)
