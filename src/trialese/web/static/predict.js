// A text or a trial in, predicted labels out, with the words behind them and the nearest examples.

import { ask } from "./api.js";
import { probabilityBars } from "./charts.js";
import { $, chips, el, fail, reading, say } from "./dom.js";

let state = null;
let turn = 0;
let shown = null;  // the text in the answer, and how it was shown
const LONGEST_IN_ADDRESS = 2000;

export function startPredict(state_) {
  state = state_;
  $("ask-text").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("text").value;
    if (/^\s*NCT\d{8}\s*$/i.test(text)) showTrial(text); // its number is no text
    else if (text.trim()) show(text);
    else $("text").focus();
  });
  $("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask-text").requestSubmit();
  });
  $("use").addEventListener("change", () => {
    state.prefer = $("use").value;
    if (!shown) return;
    const { text, how } = shown;
    if (!how.example) noteText(text, how.trial?.nct_id);
    show(text, { ...how, quiet: true });
  });
  $("ask-id").addEventListener("submit", (event) => {
    event.preventDefault();
    showTrial($("nct").value);
  });
}

const USES = {
  f1: "best balance (F1)",
  "precision=0.9": "few false labels (precision 0.9)",
  "recall=0.9": "few missed labels (recall 0.9)",
};

/** The cut-offs that the model can take, its own first; those of the address among them. */
export function offerUses() {
  const { uses, prefer } = state.model;
  const aims = uses.map((use) => use.split("=")[0]);
  if (state.prefer && !aims.includes(state.prefer.split("=")[0])) state.prefer = "";  // another model's
  const others = uses.filter((use) => use !== prefer);
  if (state.prefer && !others.includes(state.prefer)) others.push(state.prefer);
  $("use").replaceChildren(new Option(`${USES[prefer] || prefer}${prefer === "f1" ? "" : ", as fitted"}`, ""), ...others.map((use) => new Option(USES[use] || use, use)));
  $("use").value = state.prefer;
  $("use-choice").hidden = uses.length < 2;
}

function noteText(text, nct) {
  const use = state.prefer ? { prefer: state.prefer } : {};
  if (nct) state.note("predict", { nct, ...use });
  else state.note("predict", text.length <= LONGEST_IN_ADDRESS ? { text, ...use } : {});
}

/** Look a trial up and predict what the model reads of it. */
export async function showTrial(given, how = {}) {
  const mine = ++turn;
  const id = given.trim().toUpperCase();
  $("nct").value = id;
  fail("predict-error");
  if (!/^NCT\d{8}$/.test(id)) {
    fail("predict-error", new Error(`“${given.trim()}” is no NCT number: write NCT and eight digits.`));
    return;
  }
  if (!how.quiet) noteText("", id);
  try {
    const found = await ask(`/v1/trials/${id}`, { query: { model: state.model.model } });
    if (mine !== turn) return;
    if (!found.text) {
      const lack = state.model.task === "stop-reasons" ? "it gives no reason for stopping" : "its fields are empty";
      throw new Error(`${found.nct_id} holds nothing that ${state.model.model} reads: ${lack}.`);
    }
    const from = found.found_in === "registry" ? "asked of ClinicalTrials.gov just now" : "from the snapshot";
    await show(found.text, { ...how, trial: found, from });
  } catch (error) {
    if (mine !== turn) return;
    empty();
    fail("predict-error", error);
  }
}

/** What the address asks for: a text, a trial, or, where it says nothing, an example. */
export function openPredict(parameters) {
  const text = parameters.get("text");
  const id = parameters.get("nct");
  state.prefer = parameters.get("prefer") || "";
  offerUses();
  fail("predict-error");
  if (text) { $("text").value = text; show(text, { quiet: true }); }
  else if (id) showTrial(id, { quiet: true });
  else showExample();
}

/** A text of the task's own, else a trial of the snapshot that has a label. */
async function showExample() {
  const mine = ++turn;
  const { definitions, labels } = state.model;
  const text = labels.map((label) => definitions[label]?.example).find(Boolean);
  if (text) { show(text, { quiet: true, example: true }); return; }
  if (!state.facts.snapshot?.indexed) return;
  const { trials } = await ask("/v1/trials", { query: { model: state.model.model, most: 100 } }).catch(() => ({ trials: [] }));
  const trial = trials.find((each) => each.labels?.length);
  if (mine !== turn || !trial) return;
  const found = await ask(`/v1/trials/${trial.nct_id}`, { query: { model: state.model.model } }).catch(() => null);
  if (mine === turn && found?.text) show(found.text, { quiet: true, example: true, trial: found, from: "from the snapshot" });
}

function empty() {
  $("answer").className = "empty";
  $("answer").replaceChildren(el("p", {}, "Nothing to show."));
}

async function show(text, { trial, from, quiet = false, example = false } = {}) {
  const mine = ++turn;
  const model = state.model;
  if (!quiet && !trial) noteText(text);
  shown = { text, how: { trial, from, example } };
  fail("predict-error");
  $("answer").className = "empty";
  $("answer").replaceChildren(el("p", {}, "Predicting …"));
  $("answer").setAttribute("aria-busy", "true");
  try {
    const told = await ask("/v1/predict", { body: { model: model.model, texts: [text], prefer: state.prefer } });
    if (mine !== turn) return;
    const { labels, scores } = told.predictions[0];
    const best = Object.keys(scores).reduce((a, b) => (scores[b] > scores[a] ? b : a));
    draw(told, text, labels, scores, labels.includes(best) ? best : labels[0] || best, trial, from, !example);
    if (example) $("answer").prepend(el("p.soft", { id: "example" }, "An example, so that you see what comes back. Give a text of your own, a trial’s number or a file."));
    else say(labels.length ? `Predicted: ${labels.join(", ")}${told.predictions[0].needs_person ? "; needs a person" : ""}` : `No label predicted; the likeliest is ${best}`);
    nearest(mine, model, text);
  } catch (error) {
    if (mine !== turn) return;
    empty();
    fail("predict-error", error);
  } finally {
    if (mine === turn) $("answer").removeAttribute("aria-busy");
  }
}

function draw(told, text, labels, scores, chosen, trial, from, scroll) {
  const words = el("div", { id: "words-behind" }, reading(text));
  const bars = el("div", { id: "bars" });
  const choose = (label) => {
    const focused = bars.contains(document.activeElement);
    bars.replaceChildren(...probabilityBars(scores, labels, told.thresholds, label, choose));
    if (focused) bars.querySelector(".chosen button").focus();
    explain(words, told.model, text, label);
  };
  const cuts = told.thresholds
    ? ` The upright mark is each label’s cut-off, ${told.chosen_on ? `chosen on ${told.chosen_on} texts${purpose(told.prefer)}` : "0.5 for want of a chosen one"}.`
    : ` The likeliest label is given${told.prefer === "f1" ? "" : `; where it cannot keep ${told.prefer}, it needs a person`}.`;
  const reliable = told.calibrated
    ? "Calibrated on tune texts: of labels with 0.80, about eight in ten should hold."
    : "Not calibrated: their order counts, and 0.80 need not come true eight times in ten.";
  $("answer").className = "";
  $("answer").replaceChildren(
    trial ? el("p.soft", {}, `${trial.nct_id}, ${from}: ${trial.trial.brief_title || trial.trial.official_title || ""}`) : "",
    el("h2", {}, labels.length > 1 ? "Predicted labels" : "Predicted label"),
    chips(labels),
    told.predictions[0].needs_person ? el("p.person", { role: "note" }, el("strong", {}, "Needs a person: "), why(told, labels, scores)) : "",
    el("p.soft", { id: "by" }, `Predicted by ${told.model}`, told.digest ? [" (", el("code", {}, told.digest.slice(0, 12)), ")"] : "", "; no person has looked at it."),
    el("h3", { id: "behind" }, "Words that carried the label"),
    words,
    el("h3", {}, told.calibrated ? "Probabilities" : "Scores"),
    el("p.soft", { id: "reliable" }, reliable),
    el("p.soft", {}, `Choose a label to see the words that carried it.${cuts}`),
    bars,
    el("h3", {}, "Most similar labelled texts"),
    el("div", { id: "nearest", "aria-live": "polite" }, el("p.soft", {}, "Looking …")),
  );
  choose(chosen);
  const top = $("answer").getBoundingClientRect().top;
  if (scroll && top > innerHeight * 0.6) $("answer").scrollIntoView({ block: "start" });  // a phone
}

/** What cut-offs are good for, after "chosen on tune texts". */
function purpose(prefer) {
  const [aim, share] = prefer.split("=");
  if (aim === "f1") return " for the best F1";
  return aim === "precision"
    ? ` so that ${percent(share)} of those given are right; a label that cannot promise it is not given`
    : ` so that ${percent(share)} of those that hold are given`;
}

const percent = (share) => `${Math.round(1000 * share) / 10} %`;

/** Why somebody should look at the text: the server's three reasons, in its order. */
function why(told, labels, scores) {
  if (!labels.length) return "no label reaches its cut-off.";
  if (told.calibrated && Math.max(...labels.map((label) => scores[label])) < 0.5) return "even the surest label is less likely than not.";
  return "a label that would usually be given cannot be promised here.";
}

async function explain(box, model, text, label) {
  box.dataset.label = label;
  try {
    const told = await ask("/v1/explain", { body: { model, text, label } });
    if (box.dataset.label !== label) return;
    const most = Math.max(1e-9, ...told.spans.map((span) => Math.abs(span.weight)));
    const spans = told.spans
      .filter((span) => Math.abs(span.weight) > 0.04 * most)
      .map((span) => ({
        start: span.start, end: span.end, against: span.weight < 0,
        share: Math.round((55 * Math.abs(span.weight)) / most),
        title: `${span.weight < 0 ? "against" : "for"} ${label}: ${span.weight.toFixed(2)}`,
      }));
    box.replaceChildren(reading(told.text, spans), el("p.soft", { id: "legend" },
      el("mark", { style: { "--share": "45%" } }, "for"), " and ", el("mark.against", { style: { "--share": "35%" } }, "against"), ` ${label}, the stronger the more.`));
  } catch (error) {
    if (box.dataset.label === label) box.replaceChildren(reading(text), el("p.soft", {}, error.message));
  }
}

async function nearest(mine, model, text) {
  let parts;
  try {
    const told = await ask("/v1/nearest", { body: { model: model.model, text } });
    parts = [el("ul.near", {}, told.neighbours.map(({ example, similarity }) => el("li", {},
      el("p", { dir: "auto" }, shortened(example.text)),
      el("div.line", {}, el("span.tag", {}, "labelled"), chips(example.labels, { human: true, small: true }),
        el("span.soft", {}, `${example.source}, ${example.id} · similarity ${similarity.toFixed(2)}`)))))];
    if (!told.neighbours.length) parts = [el("p.soft", {}, told.missing || "No labelled text shares anything with this one.")];
    else parts.push(el("p.soft", {}, "Labels by people or by the registry, whichever split the text was in. Similarity is the cosine of TF-IDF over pieces of words, not what the model makes of them."));
  } catch (error) {
    parts = [el("p.soft", {}, error.message)];
  }
  if (mine === turn) $("nearest").replaceChildren(...parts);
}

const shortened = (text) => (text.length > 400 ? `${text.slice(0, 400)} …` : text);
