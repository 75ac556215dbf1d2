"""The vocabulary of the synthetic source. Nothing here describes a real trial.

Drug names after `NEW_FROM` are invented words, so that a model adapted to newer studies has
something to learn that no earlier text holds. `REASONS` gives phrasings of why trials stopped by
the labels of Open Targets (Razuvayevskaya et al. 2024), each as frequent as among 3,372
human-labelled texts; the phrasings are trialese's own.
"""

from __future__ import annotations

import random
from typing import NamedTuple

__all__ = [
    "CONDITIONS",
    "DRUGS",
    "EXCLUSIONS",
    "FEMALE_EXCLUSIONS",
    "FEMALE_INCLUSIONS",
    "GENERAL_INCLUSIONS",
    "MALE_INCLUSIONS",
    "NEW_DRUGS",
    "NEW_FROM",
    "REASONS",
    "SITES",
    "SPONSORS",
    "Condition",
    "stop_reason",
]


NEW_FROM = "2022-12-04"
"""Studies first posted from this day on may use `NEW_DRUGS` and the conditions marked new."""


class Condition(NamedTuple):
    """A condition, the sex that it admits, and what its studies measure."""

    name: str
    people: str
    area: str
    endpoint: str
    sex: str
    new: bool


# Name | people | area | what is measured; by the sex that the condition admits.
_ANYBODY = """
Type 2 Diabetes Mellitus | adults with type 2 diabetes | metabolic | change in HbA1c
Obesity | adults living with obesity | metabolic | percent change in body weight
Hypertension | adults with essential hypertension | heart | change in systolic blood pressure
Heart Failure | patients with chronic heart failure | heart | cardiovascular death
Atrial Fibrillation | patients with paroxysmal atrial fibrillation | heart | freedom from arrhythmia
Non-small Cell Lung Cancer | patients with advanced lung cancer | cancer | objective response rate
Colorectal Cancer | patients with metastatic colorectal cancer | cancer | progression-free survival
Multiple Myeloma | patients with relapsed multiple myeloma | cancer | minimal residual disease
Acute Myeloid Leukemia | patients with new acute myeloid leukemia | cancer | complete remission rate
Asthma | patients with uncontrolled asthma | lung | annual exacerbation rate
Chronic Obstructive Pulmonary Disease | patients with moderate COPD | lung | change in trough FEV1
Major Depressive Disorder | adults with major depressive disorder | mind | change in MADRS score
Schizophrenia | adults with schizophrenia | mind | change in PANSS total score
Alzheimer Disease | participants with mild Alzheimer disease | brain | change in ADAS-Cog score
Migraine | adults with episodic migraine | brain | change in monthly migraine days
Rheumatoid Arthritis | patients with active rheumatoid arthritis | joints | ACR20 response
Psoriasis | patients with plaque psoriasis | skin | PASI 75 response
Chronic Kidney Disease | patients with chronic kidney disease | kidney | slope of eGFR
HIV Infections | adults living with HIV-1 | infection | HIV-1 RNA < 50 copies/mL
"""
_WOMEN = """
Breast Cancer | patients with early breast cancer | cancer | invasive disease-free survival
Ovarian Cancer | patients with resistant ovarian cancer | cancer | progression-free survival
Cervical Cancer | patients with locally advanced cervical cancer | cancer | overall survival
Preeclampsia | pregnant participants at risk of preeclampsia | obstetrics | onset of preeclampsia
Endometriosis | patients with endometriosis-related pain | obstetrics | change in pelvic pain score
Postmenopausal Osteoporosis | participants with low bone density | bone | change in lumbar spine BMD
"""
_MEN = """
Prostate Cancer | patients with castration-resistant prostate cancer | cancer | PSA response
Benign Prostatic Hyperplasia | patients with lower urinary tract symptoms | urology | change in IPSS
Erectile Dysfunction | patients with erectile dysfunction | urology | change in IIEF score
"""
_NEW = """
Post-Acute COVID Fatigue | adults tired after COVID-19 | infection | change in fatigue score
GLP-1 Weight Regain | adults who regained weight after treatment | metabolic | percent weight regain
Mpox | contacts of persons with mpox | infection | laboratory-confirmed mpox
Lecanemab-Associated ARIA | participants with imaging abnormalities | brain | resolution on MRI
"""


def _conditions(table: str, sex: str, *, new: bool = False) -> tuple[Condition, ...]:
    cells = (line.split(" | ") for line in table.strip().splitlines())
    return tuple(
        Condition(name, people, area, endpoint, sex, new) for name, people, area, endpoint in cells
    )


CONDITIONS = (
    *_conditions(_ANYBODY, "ALL"),
    *_conditions(_WOMEN, "FEMALE"),
    *_conditions(_MEN, "MALE"),
    *_conditions(_NEW, "ALL", new=True),
)

DRUGS = (
    "metformin", "atorvastatin", "lisinopril", "warfarin", "tamoxifen", "docetaxel", "rituximab",
    "adalimumab", "pembrolizumab", "bevacizumab", "fluoxetine", "quetiapine", "sildenafil",
    "empagliflozin", "semaglutide", "tenofovir", "methotrexate", "budesonide", "vitamin D3",
    "placebo-matched saline", "cisplatin", "letrozole", "donepezil", "topiramate",
)  # fmt: skip
NEW_DRUGS = (
    "zelavutinib", "ormadrelimab", "tivoquastat", "pelcarigene autoleucel", "nuvisaglutide",
    "bradotuzumab vexotecan", "kestrafenib", "odralasiran", "mirvelozumab", "cintapravir",
    "solquetamide", "haltrecept", "devoxamorelin", "rulonacogene", "apitemsirsen", "juvecaptide",
)  # fmt: skip

SPONSORS = (
    "Northfield University (synthetic)", "Harbour Therapeutics (synthetic)",
    "Lakeside Cancer Centre (synthetic)", "Meridian Biopharma (synthetic)",
    "St. Elsewhere Hospital (synthetic)", "Institute of Invented Medicine (synthetic)",
    "Westmark Medical School (synthetic)", "Cobalt Biosciences (synthetic)",
)  # fmt: skip
SITES = (
    ("Alder City", "Northland"), ("Birchfield", "Northland"), ("Cedar Bay", "Westmark"),
    ("Dunmore", "Westmark"), ("Elm Harbour", "Southmere"), ("Fernhill", "Southmere"),
    ("Glenrock", "Eastvale"), ("Hawthorn", "Eastvale"), ("Ivybridge", "Midlandia"),
    ("Juniper Falls", "Midlandia"), ("Kestrel Point", "Northland"), ("Larchwood", "Westmark"),
)  # fmt: skip

GENERAL_INCLUSIONS = (
    "Signed written informed consent",
    "Confirmed diagnosis of {condition} for at least {months} months",
    "Body mass index \\>= {bmi} kg/m2",
    "ECOG performance status of 0 or {ecog}",
    "Life expectancy \\> {months} months",
    "Estimated glomerular filtration rate ≥ {egfr} mL/min/1.73 m2",
    "Hemoglobin ≥ {hb} g/dL and platelets ≥ {platelets} x 10\\^9/L",
    "Stable dose of background treatment for ≥ {weeks} weeks before screening",
    "Able to comply with study visits (at least {share}% of planned visits)",
    "HbA1c between 7.0% and {hba1c}% at screening",
)
FEMALE_INCLUSIONS = (
    "Women aged {low} to {high} years",
    "Postmenopausal women, with no menses for ≥ 12 months",
    "Female participants with intact uterus",
    "Singleton pregnancy at {weeks} weeks of gestation",
    "Histologically confirmed disease of the ovary, breast or cervix in a woman ≥ {low} years",
)
MALE_INCLUSIONS = (
    "Men aged {low} to {high} years",
    "Male patients with serum testosterone \\< 50 ng/dL",
    "Prostate-specific antigen ≥ {hb} ng/mL",
    "Male participants in a stable relationship for at least {months} months",
    "Prostate volume of \\> {egfr} mL on ultrasound",
)
FEMALE_EXCLUSIONS = (
    "Pregnant or breastfeeding women",
    "Women of childbearing potential not using effective contraception",
    "Positive pregnancy test at screening",
    "Pregnancy or lactation",
)
EXCLUSIONS = (
    "Known hypersensitivity to {drug} or any excipient",
    "Participation in another interventional study within {weeks} weeks",
    "History of myocardial infarction \\[within {months} months\\]",
    "Alanine aminotransferase \\> {ecog}.5 x upper limit of normal",
    "Active infection requiring systemic treatment",
    "Systolic blood pressure \\< 90 mmHg or \\> {egfr}0 mmHg",
    "Any condition that, in the opinion of the investigator, makes participation unsafe",
    "Alcohol or drug abuse within the past {months} months",
    "Prior treatment with {drug}",
    "Uncontrolled seizure disorder",
    "QTc interval \\> 4{hb}0 ms (Fridericia)",
    "Active malignancy other than basal cell carcinoma",
)


REASONS: dict[str, tuple[int, tuple[str, ...]]] = {
    "Insufficient_Enrollment": (972, (
        "Slow accrual", "Low enrollment", "Poor recruitment", "Slow patient recruitment",
        "Lack of participants", "Inability to recruit enough patients", "Low accrual rate",
        "Only {n} of {m} planned participants were enrolled", "No participants were enrolled",
        "Recruitment was slower than expected", "Difficulty in recruiting {people}",
    )),
    "Business_Administrative": (716, (
        "Sponsor decision", "Business decision", "Lack of funding", "Funding was withdrawn",
        "Company decision to stop development of {drug}", "Strategic portfolio prioritization",
        "Contract between sponsor and site could not be agreed", "Loss of funding",
        "The sponsor was acquired and ended the programme", "Administrative reasons",
    )),
    "Negative": (324, (
        "Lack of efficacy", "Futility", "Interim analysis showed no benefit of {drug}",
        "Primary endpoint was not met", "Insufficient efficacy in the {drug} arm",
        "Stopped for futility after {n} patients", "No difference between groups was observed",
    )),
    "Study_Design": (279, (
        "Change of study design", "Redesign of the protocol", "Change in protocol",
        "The design was no longer feasible", "Awaiting protocol amendment",
        "Eligibility criteria were too strict",
        "Change in standard of care made the design obsolete",
    )),
    "Logistics_Resources": (275, (
        "Drug supply problems", "{drug} no longer available", "Lack of resources",
        "Manufacturing delays of {drug}", "Equipment was out of service", "Lack of study staff",
        "Device not available", "Logistical difficulties at the sites",
    )),
    "Invalid_Reason": (215, (
        "Study was never started", "Study completed", "Study was not initiated", "On hold",
        "Study finished as planned", "Enrollment closed", "Study cancelled before enrolment",
    )),
    "Another_Study": (183, (
        "Results of another trial of {drug} became available", "Replaced by another study",
        "Competing study at the site", "Participants moved to an extension study",
        "Data from a parallel study answered the question", "Merged with another protocol",
    )),
    "Safety_Sideeffects": (182, (
        "Safety concerns", "Adverse events", "Unacceptable toxicity of {drug}",
        "Liver toxicity in {n} patients", "Serious adverse events in the {drug} arm",
        "Increased mortality in the treatment group", "Dose-limiting toxicity",
    )),
    "Covid19": (160, (
        "COVID-19 pandemic", "COVID-19", "Recruitment paused because of COVID-19",
        "Halted due to the coronavirus pandemic", "Site closed owing to SARS-CoV-2 restrictions",
    )),
    "Study_Staff_Moved": (154, (
        "PI left the institution", "Principal investigator moved to another university",
        "The investigator is no longer at this site", "Investigator retired",
        "Departure of the study coordinator",
    )),
    "Regulatory": (97, (
        "IRB approval expired", "FDA requested a clinical hold", "Regulatory authority decision",
        "Approval was not granted by the competent authority", "Regulatory issues",
    )),
    "No_Context": (76, (
        "See detailed description", "Study terminated", "Terminated", "No longer needed",
        "The study was stopped",
    )),
    "Endpoint_Met": (47, (
        "Primary endpoint reached early", "Sufficient number of patients obtained",
        "Target number of events was reached", "Enough data were collected",
    )),
    "Insufficient_Data": (34, (
        "Not enough data for analysis", "Too few evaluable samples",
        "Insufficient data to draw a conclusion",
    )),
    "Interim_Analysis": (27, (
        "Planned interim analysis", "Suspended for interim data review",
        "Pending interim analysis",
    )),
    "Success": (19, (
        "{drug} was clearly superior to control", "Early evidence of benefit", "Drug was approved",
    )),
    "Ethical_Reason": (14, (
        "Ethical concerns", "Ethics committee recommended stopping",
        "No longer ethical to randomize",
    )),
}  # fmt: skip
_OPENINGS = (
    "", "", "", "", "Due to ", "Study terminated due to ", "The study was stopped: ",
    "Terminated early because of ", "Study was closed. Reason: ", "Trial halted; ",
)  # fmt: skip
_ENDINGS = ("", "", "", ".", ".", " (synthetic site {n})", ", as of visit {n}.")
_JOINTS = ("; ", " and ", ". ", ", also ")
_LABELS = tuple(REASONS)
_WEIGHTS = tuple(weight for weight, _ in REASONS.values())
_COVID = _LABELS.index("Covid19")
_WEIGHTS_BEFORE_COVID = tuple(
    0 if index == _COVID else weight for index, weight in enumerate(_WEIGHTS)
)
_SEVERAL_SHARE = 0.12


def stop_reason(
    rng: random.Random, *, stopped_year: int, people: str, drug: str
) -> tuple[str, tuple[str, ...]]:
    """A text that says why a study stopped, and the labels that it means, sorted.

    Covid19 occurs only for studies that stopped in 2020 or later.
    """
    weights = _WEIGHTS if stopped_year >= 2020 else _WEIGHTS_BEFORE_COVID
    labels = rng.choices(_LABELS, weights, k=2 if rng.random() < _SEVERAL_SHARE else 1)
    labels = list(dict.fromkeys(labels))
    parts = [rng.choice(REASONS[label][1]) for label in labels]
    opening = rng.choice(_OPENINGS)
    joined = rng.choice(_JOINTS).join(
        part
        if place == 0 and not opening
        else part[:1].lower() + part[1:]
        if not part.startswith(("COVID", "PI ", "IRB", "FDA", "{"))
        else part
        for place, part in enumerate(parts)
    )
    slots = {"n": rng.randint(1, 60), "m": rng.randint(61, 400), "people": people, "drug": drug}
    text = (opening + joined + rng.choice(_ENDINGS)).format(**slots)
    return text, tuple(sorted(labels))
