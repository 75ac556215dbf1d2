// Elements made by hand: text goes in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element. `traits`: attributes; `on...`: listeners; `style`: custom properties; rest: children. */
export function el(name, traits = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  return fill(document.createElement(tag || "div"), classes, traits, children);
}

/** The same for a drawing. */
export function svg(name, traits = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  return fill(document.createElementNS(SVG, tag), classes, traits, children);
}

function fill(node, classes, traits, children) {
  if (classes.length) node.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(traits)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [name, set] of Object.entries(value)) node.style.setProperty(name, set);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const $ = (id) => document.getElementById(id);

export const number = (value) => value.toLocaleString("en-US");

/** Tell it to screen readers. */
export function say(line) {
  $("live").textContent = "";
  $("live").textContent = line;
}

/** Show a failure in the element of that id; without one, hide it. */
export function fail(id, error) {
  $(id).hidden = !error;
  $(id).textContent = error ? error.message : "";
}

/** A label whose name may be broken after an underscore. */
export function labelName(label) {
  return label.split("_").flatMap((part, place) => (place ? ["_", el("wbr"), part] : [part]));
}

let definitions = {};

/** Definitions of the model's labels, by label: `{description, example}`. */
export function setDefinitions(given) {
  definitions = given;
}

/** What a label means, with an example; null where the task does not say. */
export function meaning(label) {
  const { description, example } = definitions[label] || {};
  return [description, example && `For example: “${example}”`].filter(Boolean).join(" ") || null;
}

/** Chips of labels; `human`: given by a person. */
export function chips(labels, { human = false, small = false } = {}) {
  const kind = human ? "li.chip.human" : "li.chip";
  const items = labels.length ? labels.map((label) => el(kind, { title: meaning(label) }, labelName(label))) : [el("li.chip.none", {}, "no label")];
  return el(small ? "ul.chips.small" : "ul.chips", {}, items);
}

/** Arrow keys move the focus among the elements that `all` finds; one of them takes part in Tab. */
export function rove(box, all, onmove = () => {}) {
  box.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const ends = { Home: 0, End: -1 }[event.key];
    if (step === undefined && ends === undefined) return;
    const members = [...box.querySelectorAll(all)];
    const now = members.indexOf(document.activeElement);
    if (now < 0) return;
    event.preventDefault();
    const next = step === undefined ? members.at(ends) : members[(now + step + members.length) % members.length];
    for (const member of members) member.tabIndex = member === next ? 0 : -1;
    next.focus();
    onmove(next);
  });
}

const SHOWN = 20000;

/** A text to be read, with marks on spans of code points; a very long one is cut until asked for. */
export function reading(text, spans = [], traits = {}) {
  const letters = Array.from(text);
  const box = el("div.read", { dir: "auto", tabindex: 0, role: "region", "aria-label": "Text", ...traits });
  const draw = (end) => {
    const parts = [];
    let at = 0;
    for (const { start, end: stop, share, against, title } of spans) {
      if (start >= end) break;
      if (start > at) parts.push(letters.slice(at, start).join(""));
      parts.push(el(against ? "mark.against" : "mark", { title, style: { "--share": `${share}%` } }, letters.slice(start, stop).join("")));
      at = stop;
    }
    if (at < end) parts.push(letters.slice(at, end).join(""));
    box.replaceChildren(...parts);
    if (end < letters.length) {
      box.append("… ", el("button", { type: "button", onclick: () => draw(letters.length) }, `Show all ${number(letters.length)} characters`));
    }
  };
  draw(Math.min(SHOWN, letters.length));
  return box;
}
