// Review of disagreements: a text with everybody's labels, and what somebody decides (adjudication).

import { ask, download } from "./api.js";
import { $, chips, el, fail, labelName, meaning, number, reading, say } from "./dom.js";

let state = null;
let annotator = "";
let back = null;

/** Show the list in place of the queue; `back` returns to that. */
export async function openReview(state_, annotator_, back_) {
  state = state_;
  annotator = annotator_;
  back = back_;
  await draw();
  $("review").hidden = false;
}

export function closeReview() {
  $("review").hidden = true;
}

async function draw(focus) {
  const { texts } = await ask("/v1/queue/disagreements", { query: { model: state.model.model } });
  const open = texts.filter((each) => !each.decision).length;
  const told = texts.length ? `${number(texts.length)} ${texts.length === 1 ? "text has" : "texts have"} different labels from different annotators; ${number(open)} without a decision.` : "Annotators do not disagree on any text.";
  $("review").replaceChildren(
    el("div.row", {}, el("button", { type: "button", onclick: back }, "Back to the queue"), texts.length ? el("button", { type: "button", onclick: save }, "Save disagreements as TSV") : null),
    el("h2", { id: "review-title", tabindex: -1 }, "Disagreements"),
    el("p", { id: "review-line" }, told),
    el("p.soft", {}, "A decision replaces the annotators’ labels in what is saved, with the name of who decided. Agreement is still computed from their own labels."),
    el("ol.disputes", {}, texts.map(dispute)));
  (focus && document.querySelector(`[data-key="${focus}"] button`) || $("review-title")).focus({ preventScroll: Boolean(focus) });
}

function dispute({ key, id, text, texts, answers, decision }) {
  const facts = [id, texts > 1 && `serves ${number(texts)} texts`].filter(Boolean);
  const mine = new Set(decision ? decision.labels : []);
  const others = el("details", {}, el("summary", {}, "Other labels"));
  others.addEventListener("toggle", () => others.open && others.children.length === 1 && others.append(...choice(key, mine)));
  return el("li", { "data-key": key }, el("p.meta", {}, facts.map((fact) => el("span", {}, fact))), reading(text, [], { "aria-label": `Text ${id}` }),
    el("ul.answers", {}, Object.entries(answers).map(([name, labels]) => el("li", {},
      el("span.who", {}, name), chips(labels, { human: true, small: true }),
      el("button", { type: "button", "aria-label": `Take these labels, ${name}’s`, onclick: () => decide(key, labels) }, "Take these labels")))),
    others,
    decision && el("p.decided", {}, el("span.tag", {}, "decided"), chips(decision.labels, { human: true, small: true }),
      el("span.soft", {}, `by ${decision.decided_by}, ${decision.at.slice(0, 10)}`),
      el("button.quiet", { type: "button", onclick: () => decide(key, null) }, "Withdraw")));
}

/** A button for each label, several at once where the task allows it, and one that decides. */
function choice(key, given) {
  const group = el("div.keys", { role: "group", "aria-label": "Labels" }, state.model.labels.map((label) => {
    const button = el("button", { type: "button", "aria-pressed": String(given.has(label)), title: meaning(label) }, el("span.name", {}, labelName(label)));
    button.addEventListener("click", () => {
      if (state.model.kind !== "multilabel") {
        given.clear();
        for (const other of group.children) other.setAttribute("aria-pressed", "false");
      }
      if (!given.delete(label)) given.add(label);
      button.setAttribute("aria-pressed", String(given.has(label)));
    });
    return button;
  }));
  const decides = el("button.main", { type: "button", onclick: () => (given.size || state.model.kind === "multilabel") && decide(key, [...given]) }, "Decide");
  return [group, el("div.row", {}, decides, state.model.kind === "multilabel" ? el("span.soft", {}, "None chosen: no label fits.") : null)];
}

async function decide(key, labels) {
  try {
    fail("label-error");
    await ask("/v1/queue/decisions", { body: { model: state.model.model, annotator, key, labels } });
    say(labels ? `Decided: ${labels.join(", ") || "no label"}` : "Decision withdrawn.");
    await draw(key);
  } catch (error) {
    fail("label-error", error);
  }
}

const save = () => download("/v1/queue/disagreements.tsv", "disagreements.tsv", { model: state.model.model }).catch((error) => fail("label-error", error));
