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
      el("span.hidden", {}, `${facts}. Show the words that carried it.`));
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

/** A learning curve: points `{texts, f1, low, high}` with their intervals; the last one is a forecast. */
export function curveChart(points) {
  const width = 300, height = 150, left = 30, right = 8, top = 8, floor = 122;
  const low = Math.min(...points.map((point) => point.low)), high = Math.max(...points.map((point) => point.high));
  const least = Math.floor(low * 10) / 10, most = Math.max(least + 0.1, Math.ceil(high * 10) / 10);
  const last = points.at(-1).texts;
  const x = (texts) => left + ((width - left - right) * texts) / last;
  const y = (score) => floor - ((floor - top) * (score - least)) / (most - least);
  const path = (part) => part.map(({ texts, f1 }, place) => `${place ? "L" : "M"}${x(texts).toFixed(1)} ${y(f1).toFixed(1)}`).join("");
  const told = points.map(({ texts, f1, low: from, high: to }) => `${number(texts)} texts: ${f1.toFixed(2)}, interval ${from.toFixed(2)} to ${to.toFixed(2)}`).join("; ");
  return svg("svg.curve", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Micro-F1 by labelled texts. ${told} (forecast).` },
    [least, most].map((score) => [svg("line.grid", { x1: left, x2: width - right, y1: y(score), y2: y(score) }), svg("text", { x: left - 5, y: y(score) + 4, "text-anchor": "end" }, score.toFixed(1))]).flat(),
    svg("path.line", { d: path(points.slice(0, -1)) }), svg("path.line.ahead", { d: path(points.slice(-2)) }),
    points.map(({ texts, f1, low: from, high: to }, place) => {
      const kind = place === points.length - 1 ? ".ahead" : "";
      return [svg(`line.span${kind}`, { x1: x(texts), x2: x(texts), y1: y(from), y2: y(to) }),
        svg(`circle.dot${kind}`, { cx: x(texts), cy: y(f1), r: 3 }, svg("title", {}, `${number(texts)} texts: ${f1.toFixed(3)} [${from.toFixed(3)}, ${to.toFixed(3)}]`))];
    }).flat(),
    svg("text", { x: left, y: height - 14 }, 0), svg("text", { x: width - right, y: height - 14, "text-anchor": "end" }, number(last)),
    svg("text", { x: (left + width) / 2, y: height - 1, "text-anchor": "middle" }, "labelled texts"), svg("text", { x: left + 4, y: top + 8 }, "micro-F1"));
}
