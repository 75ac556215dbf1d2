// The snapshot: search, filters, counts as charts, one trial in full.

import { ask, download } from "./api.js";
import { tally, yearChart } from "./charts.js";
import { $, chips, el, fail, labelName, number, say } from "./dom.js";

const PAGE = 20;
const PHASES = { EARLY_PHASE1: "Early phase 1", PHASE1: "Phase 1", PHASE2: "Phase 2", PHASE3: "Phase 3", PHASE4: "Phase 4", NA: "Not applicable", "": "None given" };

let state = null;
let predictTrial = null;
let turn = 0;
let shown = 0;
let loaded = null;
let filters = {};

export function startTrials(state_, predictTrial_) {
  state = state_;
  predictTrial = predictTrial_;
  let soon = 0;
  const later = () => {
    readForm();
    clearTimeout(soon);
    soon = setTimeout(() => search({ replace: true }), 120);
  };
  $("search").addEventListener("input", later);
  $("search").addEventListener("submit", (event) => { event.preventDefault(); readForm(); search(); });
  $("search").addEventListener("reset", () => { filters = {}; setTimeout(search); });
  $("save-hits").addEventListener("click", save);
  $("more").addEventListener("click", () => search({ further: true }));
}

/** The search that the address asks for. */
export function restoreTrials(parameters) {
  filters = Object.fromEntries(parameters);
  $("words").value = filters.words || "";
  $("year-from").value = filters.year_from || "";
  $("year-to").value = filters.year_to || "";
  loaded = null;
}

/** Called whenever the tab is opened; searches on first sight and when the model has changed. */
export function openTrials() {
  if (!state.facts.snapshot.indexed) $("found").textContent = state.facts.snapshot.failure || "The search index is being made: seconds for some thousand trials, minutes for all.";
  else if (loaded !== state.model.model) search({ quiet: true });
}

export async function search({ further = false, replace = false, quiet = false } = {}) {
  const mine = ++turn;
  if (!further) shown = 0;
  loaded = state.model.model;
  if (!quiet && !further) state.note("trials", filters, { replace });
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

/** Take the filters from the form; one that is not set is not there. */
function readForm() {
  const pick = (id) => ($(id).selectedIndex > 0 ? $(id).value : null);
  const year = (id) => (/^(19|20|21)\d\d$/.test($(id).value) ? $(id).value : null);
  const given = {
    words: $("words").value.slice(0, 500) || null, label: pick("by-label"), phase: pick("by-phase"), sex: pick("by-sex"),
    year_from: year("year-from"), year_to: year("year-to"),
  };
  filters = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== null));
}

/** The filters; null is any. */
function chosen() {
  const year = (value) => (value ? Number(value) : null);
  return {
    words: filters.words ?? "", label: filters.label ?? null, phase: filters.phase ?? null, sex: filters.sex ?? null,
    year_from: year(filters.year_from), year_to: year(filters.year_to),
  };
}

async function save() {
  try {
    fail("trials-error");
    const headers = await download("/v1/trials.csv", "trials.csv", { ...chosen(), model: state.model.model });
    const left = Number(headers.get("X-Left-Out"));
    say(`${number(Number(headers.get("X-Rows")))} rows saved.`);
    if (left) fail("trials-error", new Error(`The first ${number(Number(headers.get("X-Rows")))} trials were saved; ${number(left)} more were left out. Narrow the search for the rest.`));
  } catch (error) {
    fail("trials-error", error);
  }
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
  $("save-hits").hidden = !counts.total;
  $("more").hidden = shown >= counts.total;
  if (further && items.length) items[0].querySelector("button").focus();
  options("by-label", counts.labels, now.label, (label) => label || "read, no label");
  options("by-phase", counts.phases, now.phase, phaseName);
  options("by-sex", counts.sexes, now.sex, (sex) => sex || "None given");
  const set = (id) => (value) => {
    if (value === null) $(id).selectedIndex = 0;
    else $(id).value = value;
    readForm();
    search();
  };
  const focus = document.activeElement?.closest("#counts [data-chart]")?.dataset.chart;
  const chart = (name, title, drawing) => el("section", { "data-chart": name }, el("h3", {}, title), drawing);
  $("counts").replaceChildren(
    chart("year", "First posted", yearChart(counts.years, { from: now.year_from, to: now.year_to }, (year) => {
      const same = now.year_from === year && now.year_to === year;
      $("year-from").value = $("year-to").value = same ? "" : year;
      readForm();
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
    const part = (name, value) => (value && value.length ? [el("h3", {}, name), el("p", { dir: "auto", tabindex: value.length > 1500 ? 0 : null }, Array.isArray(value) ? value.join("; ") : value)] : []);
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
