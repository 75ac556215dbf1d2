// The labelling queue: one key a label, one answer for all duplicates, undo.

import { ask, download } from "./api.js";
import { curveChart } from "./charts.js";
import { closeReview, openReview } from "./review.js";
import { $, el, fail, labelName, meaning, number, reading, rove, say } from "./dom.js";

const KEYS = [..."123456789qwertyuiopasdfghjkcvbm"];

let state = null;
let annotator = localStorage.getItem("annotator") || "";
let item = null;
let given = new Set();
let hints = false;
let busy = false;
let reviewing = false;
let curveSoon = 0;

export function startLabel(state_) {
  state = state_;
  $("annotator").value = annotator;
  $("who").addEventListener("submit", (event) => {
    event.preventDefault();
    annotator = $("annotator").value.trim();
    if (!annotator) return $("annotator").focus();
    localStorage.setItem("annotator", annotator);
    item = null;
    begin();
  });
  rove($("keys"), "button");
}

/** Called whenever the tab is opened or the model changes. */
export function openLabel() {
  const { labelling, queue, snapshot } = state.facts;
  const possible = labelling && Boolean(queue || snapshot);
  $("no-labelling").hidden = possible;
  define();
  guide();
  if (!possible) { $("who").hidden = true; return; }
  $("queue-source").textContent = queue ? `${number(queue.texts)} texts of ${queue.name}${leftOut(queue)}.` : `Texts of the snapshot, ${number(snapshot.trials)} trials.`;
  if ($("who").hidden) begin();
  else $("annotator").focus({ preventScroll: true });
}

const leftOut = ({ left_out: reasons }) => {
  const told = Object.entries(reasons).map(([reason, count]) => `${number(count)} ${reason.replaceAll("_", " ")}`);
  return told.length ? ` (left out: ${told.join(", ")})` : "";
};

/** What the address asks for: the queue, or the review of disagreements. */
export function restoreLabel(parameters) {
  reviewing = parameters.get("view") === "review";
}

async function begin() {
  try {
    fail("label-error");
    $("who").hidden = true;
    $("labelling").hidden = reviewing;
    (reviewing ? $("label") : $("acts").parentElement).append($("guidelines"), $("definitions"));
    if (reviewing) {
      await openReview(state, annotator, () => turnTo(false));
      return;
    }
    closeReview();
    await next();
    $("card").focus();
  } catch (error) {
    fail("label-error", error);
    if (!item && !reviewing) { $("who").hidden = false; $("labelling").hidden = true; }
  }
}

/** Go to the review, or back to the queue. */
function turnTo(review) {
  reviewing = review;
  state.note("label", review ? { view: "review" } : {});
  begin();
}

/** The list of what the labels mean, where the task says it. */
function define() {
  const known = state.model.labels.filter((label) => meaning(label));
  $("definitions").hidden = !known.length;
  $("definitions").querySelector("dl").replaceChildren(...known.flatMap((label) => {
    const { description, example } = state.model.definitions[label];
    return [el("dt", {}, labelName(label)), el("dd", {}, description, example ? el("q", {}, example) : null)];
  }));
}

/** The guidelines, which the server has made harmless; the page's policy forbids scripts anyway. */
async function guide() {
  if (!state.facts.guidelines || !$("guidelines").hidden) return;
  const { html } = await ask("/v1/guidelines");
  const parsed = new DOMParser().parseFromString(html, "text/html");
  $("guidelines").querySelector(".prose").replaceChildren(...parsed.body.childNodes);
  $("guidelines").hidden = false;
}

async function next() {
  const query = { annotator, model: state.model.model, most: 1 };
  let told = await ask("/v1/queue", { query });
  while (!told.texts && told.reading) {
    fail("label-error", new Error("The model is reading the first texts."));
    await new Promise((resolve) => setTimeout(resolve, 500));
    told = await ask("/v1/queue", { query });
  }
  fail("label-error");
  show(told.items[0] || null, []);
  progress(told);
}

function show(item_, labels) {
  item = item_;
  given = new Set(labels);
  if (!item) {
    $("card").replaceChildren(el("h2", {}, "Nothing left to label"), el("p", {}, "Every text has your answer or your skip."));
  } else {
    const serves = item.texts === 1 ? "no duplicates" : `the answer serves ${number(item.texts)} texts`;
    const why = item.second ? "labelled by somebody else: a second opinion" : `uncertainty ${item.uncertainty.toFixed(1)} bits, novelty ${item.novelty.toFixed(2)}`;
    $("card").replaceChildren(el("p.meta", {}, [item.nct_id, serves, why].map((fact) => el("span", {}, fact))), reading(item.text, [], { id: "card-text" }));
  }
  keys();
}

const several = () => state.model.kind === "multilabel";

function keys() {
  const focused = document.activeElement?.closest("#keys button")?.dataset.label;
  $("keys").replaceChildren(...state.model.labels.map((label, place) => el("button", {
    type: "button", "aria-pressed": String(given.has(label)), "data-label": label, title: meaning(label), tabindex: place ? -1 : 0, disabled: !item, onclick: () => press(label),
  }, KEYS[place] ? el("kbd", {}, KEYS[place]) : null, el("span.name", {}, labelName(label)),
  hints && item ? el("span.number", {}, item.scores[label].toFixed(2)) : null)));
  const act = (name, key, run, traits = {}) => el(traits.main ? "button.main" : "button", { type: "button", disabled: !item && name !== "Undo", onclick: run }, name, el("kbd", {}, key));
  $("acts").replaceChildren(...[
    several() && act("Keep", "Enter", keep, { main: true }), several() && act("None of these", "n", none), act("Skip", "x", skip), act("Undo", "z", undo)].filter(Boolean));
  if (focused) [...$("keys").children].find((button) => button.dataset.label === focused)?.focus();
}

function press(label) {
  if (!item) return;
  if (!several()) { given = new Set([label]); keep(); return; }
  if (!given.delete(label)) given.add(label);
  say(`${label} ${given.has(label) ? "given" : "taken back"}`);
  keys();
}

const keep = () => {
  if (given.size) send([...given]);
  else say("No label given. Press n for none of these, x to skip.");
};
const none = () => send([]);
const skip = () => send(null);

async function send(labels) {
  if (!item || busy) return;
  busy = true;
  try {
    await ask("/v1/queue/answers", { body: { model: state.model.model, annotator, key: item.key, labels } });
    say(labels ? `Kept for ${item.texts} ${item.texts === 1 ? "text" : "texts"}.` : "Skipped.");
    await next();
    $("card").focus();
  } catch (error) {
    fail("label-error", error);
  } finally {
    busy = false;
  }
}

async function undo() {
  if (busy) return;
  busy = true;
  try {
    const told = await ask("/v1/queue/undo", { body: { model: state.model.model, annotator } });
    if (!told.undone) return say("Nothing to undo.");
    if (!told.item) { await next(); return say("Undone. Its text is no longer in the queue."); }
    show(told.item, told.labels);
    progress(await ask("/v1/queue", { query: { annotator, model: state.model.model, most: 1 } }));
    say("Undone. The text is back.");
    $("card").focus();
  } catch (error) {
    fail("label-error", error);
  } finally {
    busy = false;
  }
}

/** A key pressed while the tab is open; true if it was one of its own. */
export function labelKey(key) {
  if ($("labelling").hidden) return false;
  const place = KEYS.indexOf(key);
  const label = place >= 0 ? state.model.labels[place] : undefined;
  const act = { n: several() && none, x: skip, z: undo, Enter: several() && keep }[key];
  if (label !== undefined) press(label);
  else if (act) act();
  else return false;
  return true;
}

async function progress(told) {
  const mine = told.answered[annotator] || 0;
  const others = Object.entries(told.answered).filter(([name]) => name !== annotator);
  const share = (100 * told.served) / Math.max(1, told.texts);
  const parts = [
    el("h3", {}, annotator),
    el("p", { id: "mine" }, `${number(mine)} ${mine === 1 ? "answer" : "answers"}`),
    ...others.map(([name, count]) => el("p.soft", {}, `${name}: ${number(count)}`)),
    el("progress", { max: told.texts, value: told.served, "aria-label": "Texts with labels" }),
    el("p.soft", { id: "served" }, `${number(told.served)} of ${number(told.texts)} texts have labels (${share.toFixed(share < 10 ? 1 : 0)} %), in ${number(told.clusters)} clusters of duplicates.`),
    el("label.check", {}, el("input", { type: "checkbox", checked: hints, onchange: (event) => { hints = event.target.checked; keys(); } }), "Show the model’s probabilities"),
    el("p.soft", {}, "Off by default: they pull answers towards the model."),
    el("div.row", {}, el("button", { type: "button", disabled: !told.served, onclick: save }, "Save labels as TSV")),
  ];
  const query = { model: state.model.model };
  const [alike, curve] = await Promise.all([others.length ? ask("/v1/queue/agreement", { query }) : null, ask("/v1/queue/curve", { query })]);
  $("progress").replaceChildren(...parts, ...(alike ? agreement(alike, told.disputed) : []), el("div", { id: "curve" }));
  drawCurve(curve);
}

/** What more labels would bring; looked at again while it is being computed. */
function drawCurve(curve) {
  if (!$("curve")) return;
  $("curve").replaceChildren(
    el("h3", {}, "What more labels would bring"),
    curve.points.length ? curveChart(curve.points) : "",
    el("p", { id: "curve-line" }, curve.message),
    curve.state === "ready" ? el("p.soft", {}, `TF-IDF fitted on parts of the ${number(curve.texts)} labelled texts and scored on others, with 95 % intervals; the last point is a forecast. The classifier itself may gain more or less, and texts of the queue are harder than most.`) : "");
  if (curve.state !== "computing") return;
  clearTimeout(curveSoon);
  curveSoon = setTimeout(() => ask("/v1/queue/curve", { query: { model: state.model.model } }).then(drawCurve).catch(() => {}), 1500);
}

function agreement(told, disputed) {
  if (!told.texts) return [el("h3", {}, "Agreement"), el("p.soft", {}, "No text has two opinions yet.")];
  const figure = (value) => (value === null ? "–" : value.toFixed(2));
  const used = told.labels.filter((row) => row.given);
  return [
    el("h3", {}, "Agreement"),
    el("p", { id: "agreement" }, `${told.same} of ${told.texts} texts alike; Krippendorff’s α ${figure(told.alpha)}`),
    told.same < told.texts && el("div.row", {}, el("button", { type: "button", id: "to-review", onclick: () => turnTo(true) }, `Review disagreements${disputed ? ` (${number(disputed)} open)` : ""}`)),
    el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "label"), el("th", { scope: "col", title: "Cohen’s kappa, of two annotators" }, "κ"), el("th", { scope: "col", title: "Krippendorff’s alpha" }, "α"))),
      el("tbody", {}, used.map((row) => el("tr", {}, el("th", { scope: "row" }, labelName(row.label)), el("td", {}, figure(row.kappa)), el("td", {}, figure(row.alpha)))))),
  ].filter(Boolean);
}

async function save() {
  try {
    const headers = await download("/v1/queue/labelled.tsv", "labelled.tsv", { model: state.model.model });
    const disputed = Number(headers.get("X-Disputed"));
    say(`${headers.get("X-Rows")} rows saved${disputed ? `; ${disputed} disputed clusters left out` : ""}.`);
  } catch (error) {
    fail("label-error", error);
  }
}
