// Charts as drawings: probabilities with cut-offs, years, tallies.

import { el, labelName, meaning, number, rove, svg } from "./dom.js";

const FIRST = 6;

/** Bars of a prediction, the likeliest first. `onchoose(label)` is told what is asked about. */
export function probabilityBars(scores, given, cuts, chosen, onchoose) {
  const order = Object.keys(scores).sort((a, b) => scores[b] - scores[a]);
  const list = el("ul.bars", { "aria-label": "Probabilities" });
  const items = order.map((label, place) => {
    const cut = cuts ? cuts[label] : null;
    const hit = given.includes(label);
    const facts = (cut === null ? "" : `, cut-off ${cut.toFixed(2)}`) + (hit ? ", predicted" : "");
    const button = el("button", {
      type: "button", tabindex: label === chosen ? 0 : -1, onclick: () => onchoose(label),
      title: [`${label}: probability ${scores[label].toFixed(2)}${facts}`, meaning(label)].filter(Boolean).join(". "),
    },
      el("span.name", {}, labelName(label)),
      el("span.track", { "aria-hidden": "true", style: { "--share": `${100 * scores[label]}%` } }, el("i"), cut === null ? null : el("b", { style: { "--cut": `${100 * cut}%` } })),
      el("span.number", {}, scores[label].toFixed(2)),
      el("span.hidden", {}, `${facts}. Show the words behind it.`));
    const item = el("li", { hidden: place >= FIRST && !hit }, button);
    item.classList.toggle("given", hit);
    item.classList.toggle("chosen", label === chosen);
    item.dataset.label = label;
    return item;
  });
  list.append(...items);
  rove(list, "li:not([hidden]) button");
  const rest = items.filter((item) => item.hidden);
  const more = rest.length && el("button.quiet", { type: "button", onclick: () => {
    for (const item of rest) item.hidden = false;
    rest[0].firstChild.focus();
    more.remove();
  } }, `Show all ${order.length} labels`);
  return more ? [list, more] : [list];
}

/** A column for each year; a click chooses it. */
export function yearChart(years, chosen, onchoose) {
  const known = Object.keys(years).filter(Boolean).map(Number);
  if (!known.length) return el("p.soft", {}, "No dates.");
  const first = Math.min(...known), last = Math.max(...known);
  const width = 300, height = 92, floor = 76, step = width / (last - first + 1);
  const top = Math.max(...known.map((year) => years[year]));
  const columns = [];
  for (let year = first; year <= last; year++) {
    const count = years[year] || 0;
    const tall = count ? Math.max(1.5, (count / top) * (floor - 14)) : 0;
    const out = (chosen.from && year < chosen.from) || (chosen.to && year > chosen.to);
    columns.push(svg(out ? "rect.col.out" : "rect.col", {
      x: ((year - first) * step + step * 0.1).toFixed(2), y: (floor - tall).toFixed(2), width: (step * 0.8).toFixed(2), height: tall.toFixed(2),
      rx: Math.min(1.5, step / 4), "data-year": year, onclick: () => onchoose(year),
    }, svg("title", {}, `${year}: ${number(count)}`)));
  }
  const busiest = known.find((year) => years[year] === top);
  const at = Math.min(width - 14, Math.max(14, (busiest - first + 0.5) * step));
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Trials by year of first posting, ${first} to ${last}; most in ${busiest}: ${number(top)}` },
    svg("line.axis", { x1: 0, x2: width, y1: floor + 0.5, y2: floor + 0.5 }), columns,
    svg("text", { x: 0, y: height - 2 }, first), last > first && svg("text", { x: width, y: height - 2, "text-anchor": "end" }, last),
    svg("text", { x: at.toFixed(1), y: 9, "text-anchor": "middle" }, number(top)));
}

/** A line for each value with a bar; a press chooses it, a second press lets go of it. */
export function tally(counts, chosen, name, onchoose) {
  const top = Math.max(1, ...Object.values(counts));
  const list = el("ul.tally");
  list.append(...Object.entries(counts).map(([value, count], place) =>
    el("li", {}, el("button", {
      type: "button", "aria-pressed": String(chosen === value), tabindex: place ? -1 : 0, onclick: () => onchoose(chosen === value ? null : value),
    }, el("span.name", {}, name(value)),
    svg("svg", { viewBox: "0 0 100 8", height: 9, preserveAspectRatio: "none", "aria-hidden": "true" }, svg("rect", { width: Math.max(0.8, (100 * count) / top).toFixed(1), height: 8, rx: 1 })),
    el("span.number", {}, number(count))))));
  rove(list, "button");
  return list;
}
