// The frame: tabs, model, shortcuts, the verdict.

import { ask } from "./api.js";
import { $, fail, rove, say, setDefinitions } from "./dom.js";
import { startFile } from "./file.js";
import { labelKey, openLabel, restoreLabel, startLabel } from "./label.js";
import { offerUses, openPredict, showTrial, startPredict } from "./predict.js";
import { openTrials, restoreTrials, search, startTrials } from "./trials.js";

const TABS = ["predict", "trials", "verdict", "label"];
const state = { model: null, models: [], facts: null, prefer: "", note };
const last = {};  // tab -> its address when it was left
let current = "predict";

/** Tab and parameters of the address. The slash keeps the browser from jumping to an element. */
function asked() {
  const [, tab, query = ""] = location.hash.match(/^#\/(\w+)\??(.*)$/) || [];
  return { tab: TABS.find((name) => name === tab), parameters: new URLSearchParams(query) };
}

/** Put what is shown into the address, so that Back and a copied link bring it again. */
function note(tab, parameters, { replace = false } = {}) {
  const query = new URLSearchParams(parameters).toString();
  go(`#/${tab}${query && `?${query}`}`, replace);
}

function go(address, replace) {
  last[address.match(/\w+/)[0]] = address;
  if (location.hash === address) return;
  history[replace ? "replaceState" : "pushState"](null, "", address);
}

/** Show what the address asks for. */
function restore() {
  const { tab, parameters } = asked();
  if (!tab) return;
  last[tab] = location.hash;
  forgetErrors();
  if (!state.model || !state.facts) { open(tab); return; }
  if (tab === "trials") restoreTrials(parameters);
  if (tab === "predict") openPredict(parameters);
  if (tab === "label") restoreLabel(parameters);
  open(tab);
}

/** What went wrong before says nothing of what is done now. */
function forgetErrors() {
  for (const id of ["predict-error", "trials-error", "label-error"]) fail(id);
  for (const box of document.querySelectorAll("#job .error")) box.remove();
}

function open(name, { focus = false } = {}) {
  current = name;
  for (const tab of TABS) {
    const button = $(`tab-${tab}`);
    button.setAttribute("aria-selected", String(tab === name));
    button.tabIndex = tab === name ? 0 : -1;
    $(tab).hidden = tab !== name;
  }
  if (asked().tab !== name) go(last[name] || `#/${name}`, !asked().tab);
  document.title = `${$(`tab-${name}`).textContent} · trialese`;
  if (focus) $(name).focus({ preventScroll: true });
  if (!state.model || !state.facts) return;
  if (name === "trials" && state.facts.snapshot) openTrials();
  if (name === "verdict") openVerdict();
  if (name === "label") openLabel();
}

function openVerdict() {
  const path = state.facts.verdict;
  $("no-verdict").hidden = Boolean(path);
  $("verdict-line").hidden = $("report").hidden = !path;
  if (path && !$("report").src) {
    $("report").src = path;
    $("verdict-alone").href = path;
  }
}

function choose(name) {
  state.model = state.models.find((model) => model.model === name) || state.models[0];
  $("about").textContent = state.model.description;
  setDefinitions(state.model.definitions);
  offerUses();
  if (current !== "predict") open(current);
}

function startKeys() {
  const single = $("single-keys");
  single.checked = localStorage.getItem("single-keys") !== "off";
  single.addEventListener("change", () => localStorage.setItem("single-keys", single.checked ? "on" : "off"));
  $("help").addEventListener("click", () => $("shortcuts").showModal());
  let after = "";
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const typing = event.target.closest("input:not([type=checkbox]), textarea, select");
    if (typing || !single.checked) return;
    if (event.key === "Enter" && event.target.closest("button, a, summary")) {
      if (current !== "label" || !event.target.closest("#keys")) return;  // a button does its own work
    }
    const first = after;
    after = "";
    if (first === "g") {
      const name = TABS.find((tab) => tab[0] === event.key);
      if (name) { event.preventDefault(); open(name, { focus: true }); return; }
    }
    if (current === "label" && event.key !== "g" && labelKey(event.key)) event.preventDefault();
    else if (event.key === "g") after = "g";
    else if (event.key === "?") $("shortcuts").showModal();
    else if (event.key === "/") { event.preventDefault(); open("trials"); $("words").focus(); }
  });
}

function fact(facts) {
  state.facts = facts;
  $("version").textContent = `trialese ${facts.version}`;
  const snapshot = facts.snapshot;
  $("attribution").textContent = snapshot ? `${snapshot.attribution}${snapshot.data_timestamp ? ` Snapshot of ${snapshot.data_timestamp.slice(0, 10)}.` : ""}` : "";
  $("synthetic").hidden = !snapshot?.synthetic;
  if (!snapshot) $("found").textContent = "No snapshot was given. Start with --snapshot FOLDER, which trialese collect writes.";
  $("search").hidden = !snapshot;
}

/** While models read the snapshot, counts grow: look again now and then. */
async function follow() {
  const done = () => !state.facts.snapshot || state.facts.snapshot.failure || (state.facts.snapshot.indexed && state.models.every((model) => state.facts.snapshot.read[model.model] >= 1));
  while (!done()) {
    const { indexed, read } = state.facts.snapshot;
    await new Promise((resolve) => setTimeout(resolve, indexed ? 3000 : 500));
    const before = read[state.model.model];
    fact(await ask("/v1/page"));
    if (current === "trials" && !indexed) openTrials();
    else if (current === "trials" && before !== state.facts.snapshot.read[state.model.model] && !$("hits").querySelector(".detail") && scrollY < 200) search();
  }
}

async function start() {
  const tabs = $("tabs");
  tabs.addEventListener("click", (event) => event.target.closest("[role=tab]") && open(event.target.closest("[role=tab]").id.slice(4)));
  rove(tabs, "[role=tab]", (tab) => open(tab.id.slice(4)));
  addEventListener("hashchange", restore);
  for (const action of ["submit", "change", "drop"]) addEventListener(action, forgetErrors, true);
  addEventListener("click", (event) => event.target.closest?.("button, a") && forgetErrors(), true);
  startKeys();
  startPredict(state);
  startFile(state, () => open("predict"));
  startTrials(state, (id) => { open("predict", { focus: true }); showTrial(id); });
  startLabel(state);
  open(asked().tab || "predict");
  try {
    for (;;) {
      fact(await ask("/v1/page"));
      if (state.facts.ready) break;
      $("waiting").hidden = false;
      await new Promise((resolve) => setTimeout(resolve, 400));
    }
    state.models = (await ask("/v1/models")).models;
  } catch (error) {
    $("waiting").hidden = false;
    $("waiting").textContent = error.message;
    return;
  }
  $("waiting").hidden = true;
  $("model").replaceChildren(...state.models.map((model) => new Option(model.model, model.model)));
  $("model").addEventListener("change", () => { choose($("model").value); say(`Model ${$("model").value}`); });
  $("model-choice").hidden = state.models.length < 2;
  choose(state.models[0].model);
  restore();
  document.body.dataset.ready = "yes";
  follow().catch(() => {});
}

start();
