// The snapshot: search, filters, counts as charts, one trial in full.

import { ask } from "./api.js";
import { tally, yearChart } from "./charts.js";
import { $, chips, el, fail, labelName, number, say } from "./dom.js";

const PAGE = 20;
const PHASES = { EARLY_PHASE1: "Early phase 1", PHASE1: "Phase 1", PHASE2: "Phase 2", PHASE3: "Phase 3", PHASE4: "Phase 4", NA: "Not applicable", "": "None given" };

let state = null;
let predictTrial = null;
let turn = 0;
let shown = 0;
let loaded = null;

export function startTrials(state_, predictTrial_) {
  state = state_;
  predictTrial = predictTrial_;
  let soon = 0;
  const later = () => { clearTimeout(soon); soon = setTimeout(search, 120); };
  $("search").addEventListener("input", later);
  $("search").addEventListener("submit", (event) => { event.preventDefault(); search(); });
  $("search").addEventListener("reset", () => setTimeout(search));
  $("more").addEventListener("click", () => search({ further: true }));
}

/** Called whenever the tab is opened; searches on first sight and when the model has changed. */
export function openTrials() {
  if (!state.facts.snapshot.indexed) $("found").textContent = state.facts.snapshot.failure || "The search index is being made: seconds for some thousand trials, minutes for all.";
  else if (loaded !== state.model.model) search();
}

export async function search({ further = false } = {}) {
  const mine = ++turn;
  if (!further) shown = 0;
  loaded = state.model.model;
  const query = { ...chosen(), model: state.model.model, most: PAGE, skip: shown };
  try {
    fail("trials-error");
    const told = await ask("/v1/trials", { query });
    if (mine !== turn) return;
    draw(told, further);
  } catch (error) {
    if (mine === turn) fail("trials-error", error);
  }
}

/** The filters that are set; null is any. */
function chosen() {
  const pick = (id) => ($(id).selectedIndex > 0 ? $(id).value : null);
  const year = (id) => (/^(19|20|21)\d\d$/.test($(id).value) ? Number($(id).value) : null);
  return {
    words: $("words").value.slice(0, 500), label: pick("by-label"), phase: pick("by-phase"), sex: pick("by-sex"),
    year_from: year("year-from"), year_to: year("year-to"),
  };
}

function draw({ counts, trials }, further) {
  const now = chosen();
  const snapshot = state.facts.snapshot;
  const read = snapshot.read[state.model.model] ?? 0;
  const still = read < 1 ? ` ${state.model.model} has read ${Math.floor(100 * read)} % of them so far.` : "";
  $("found").textContent = `${number(counts.total)} of ${number(snapshot.trials)} trials.${still}`;
  const items = trials.map(line);
  if (further) $("hits").append(...items);
  else $("hits").replaceChildren(...items);
  shown += trials.length;
  $("more").hidden = shown >= counts.total;
  if (further && items.length) items[0].querySelector("button").focus();
  options("by-label", counts.labels, now.label, (label) => label || "read, no label");
  options("by-phase", counts.phases, now.phase, phaseName);
  options("by-sex", counts.sexes, now.sex, (sex) => sex || "None given");
  const set = (id) => (value) => {
    if (value === null) $(id).selectedIndex = 0;
    else $(id).value = value;
    search();
  };
  const focus = document.activeElement?.closest("#counts [data-chart]")?.dataset.chart;
  const chart = (name, title, drawing) => el("section", { "data-chart": name }, el("h3", {}, title), drawing);
  $("counts").replaceChildren(
    chart("year", "First posted", yearChart(counts.years, { from: now.year_from, to: now.year_to }, (year) => {
      const same = now.year_from === year && now.year_to === year;
      $("year-from").value = $("year-to").value = same ? "" : year;
      search();
    })),
    Object.keys(counts.labels).length ? chart("label", `Predicted by ${state.model.model}`, tally(counts.labels, now.label, (label) => (label ? labelName(label) : "no label"), set("by-label"))) : "",
    chart("phase", "Phase", tally(counts.phases, now.phase, phaseName, set("by-phase"))),
    chart("sex", "Who may enrol", tally(counts.sexes, now.sex, (sex) => sex || "None given", set("by-sex"))),
  );
  if (focus) (document.querySelector(`[data-chart="${focus}"] [aria-pressed="true"]`) || document.querySelector(`[data-chart="${focus}"] button`))?.focus();
}

const phaseName = (phase) => PHASES[phase] ?? phase;

function options(id, counts, value, name) {
  const rows = Object.entries(counts).map(([key, count]) => el("option", { value: key, selected: key === value }, `${name(key)} (${number(count)})`));
  if (value !== null && !(value in counts)) rows.push(el("option", { value, selected: true }, `${name(value)} (0)`));
  $(id).replaceChildren(el("option", { value: "" }, "any"), ...rows);
}

function line(trial) {
  const title = el("button.title", { type: "button", "aria-expanded": "false", dir: "auto" }, trial.title || trial.nct_id);
  const phases = trial.phases.filter((phase) => phase !== "NA").map(phaseName).join("/");
  const facts = [trial.nct_id, phases, trial.sex, trial.year, sentence(trial.status), trial.conditions].filter(Boolean);
  const item = el("li", {}, title, el("p.meta", {}, facts.map((fact) => el("span", {}, String(fact)))),
    trial.reason && el("p.why", { dir: "auto" }, el("span.tag", {}, "why stopped"), trial.reason),
    trial.labels && el("div.near", {}, el("div.line", {}, el("span.tag", {}, "predicted"), chips(trial.labels, { small: true }))));
  title.addEventListener("click", () => toggle(item, title, trial.nct_id));
  return item;
}

const sentence = (words) => (words ? words[0] + words.slice(1).toLowerCase().replaceAll("_", " ") : "");

async function toggle(item, title, id) {
  const open = item.querySelector(".detail");
  title.setAttribute("aria-expanded", String(!open));
  if (open) return open.remove();
  const box = el("div.detail", {}, el("p.soft", {}, "Opening …"));
  item.append(box);
  try {
    const { trial, text } = await ask(`/v1/trials/${id}`, { query: { model: state.model.model } });
    const part = (name, value) => (value && value.length ? [el("h4", {}, name), el("p", { dir: "auto", tabindex: value.length > 1500 ? 0 : null }, Array.isArray(value) ? value.join("; ") : value)] : []);
    box.replaceChildren(
      ...part("Summary", trial.brief_summary), ...part("Interventions", trial.interventions), ...part("Primary outcomes", trial.primary_outcomes),
      ...part("Who may take part", trial.eligibility_criteria), ...part("Sponsor", trial.lead_sponsor),
      el("div.row", {}, text && el("button", { type: "button", onclick: () => predictTrial(id) }, "Explain its labels"),
        !trial.synthetic && el("a", { href: `https://clinicaltrials.gov/study/${id}`, target: "_blank", rel: "noopener noreferrer" }, "At ClinicalTrials.gov")));
    say(`${id} opened`);
  } catch (error) {
    box.replaceChildren(el("p", {}, error.message));
  }
}
