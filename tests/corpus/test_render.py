"""Trials become documents: fields in order, under their names, without what is withheld."""

import pytest

from trialese.corpus.render import render_document
from trialese.errors import RecipeError
from trialese.records import Trial
from trialese.settings import RenderSettings

TRIAL = Trial(
    nct_id="NCT00000001",
    brief_title="Metformin in Adults",
    official_title="A Trial of Metformin in Adults With HbA1c \\> 7.5%",
    brief_summary="Does metformin help?",
    eligibility_criteria="Inclusion Criteria:\n\n* Age ≥ 18\n* Gender: Female\n* No male partners",
    sex="Female",
    why_stopped="The sponsor withdrew its funding of the study",
    detailed_description="Stopped. THE SPONSOR withdrew its\nfunding of the study, in May.",
    conditions=("Type 2 Diabetes", "Obesity"),
    healthy_volunteers=False,
    enrollment=40,
)


def test_default_fields_in_order_under_their_names() -> None:
    assert render_document(TRIAL, RenderSettings()).text == (
        "Title: Metformin in Adults\n\n"
        "Official title: A Trial of Metformin in Adults With HbA1c > 7.5%\n\n"
        "Summary: Does metformin help?\n\n"
        "Description: Stopped. THE SPONSOR withdrew its funding of the study, in May.\n\n"
        "Eligibility criteria:\n\nInclusion Criteria:\n- Age ≥ 18\n- Gender: Female\n"
        "- No male partners"
    )


def test_fields_of_every_kind() -> None:
    fields = ("conditions", "enrollment", "healthy_volunteers", "sex", "acronym")
    assert render_document(TRIAL, RenderSettings(fields=fields)).text == (
        "Conditions: Type 2 Diabetes; Obesity\n\nEnrollment: 40\n\nHealthy volunteers: No\n\n"
        "Sex: Female"
    )


def test_without_markers() -> None:
    settings = RenderSettings(fields=("brief_title", "brief_summary"), markers=False)
    assert render_document(TRIAL, settings).text == "Metformin in Adults\n\nDoes metformin help?"


def test_a_title_said_twice_is_said_once() -> None:
    trial = Trial(nct_id="NCT1", brief_title="Same", official_title="Same ")
    assert render_document(trial, RenderSettings()).text == "Title: Same"


def test_withheld_field_is_neither_rendered_nor_repeated() -> None:
    settings = RenderSettings(
        fields=("why_stopped", "detailed_description"), withhold=("why_stopped",)
    )
    assert render_document(TRIAL, settings).text == "Description: Stopped. , in May."


def test_withheld_code_is_cut_where_a_text_names_it() -> None:
    settings = RenderSettings(fields=("sex", "eligibility_criteria"), withhold=("sex",))
    text = render_document(TRIAL, settings).text
    assert "Female" not in text
    assert "No male partners" in text  # a word of the language, not a copy of the field


def test_published_text_is_cleaned_as_the_prior_art_does() -> None:
    settings = RenderSettings(fields=("official_title",), markers=False, cleaning="published")
    text = render_document(TRIAL, settings).text
    assert text == "A Trial of Metformin in Adults With HbA1c \\> 7.5"


def test_unknown_field_suggests_the_right_one() -> None:
    with pytest.raises(RecipeError, match="did you mean 'brief_summary'"):
        render_document(TRIAL, RenderSettings(fields=("brief_sumary",)))
    with pytest.raises(RecipeError, match=r"corpus\.render\.withhold"):
        render_document(TRIAL, RenderSettings(withhold=("synthetic_stop_reasons",)))
