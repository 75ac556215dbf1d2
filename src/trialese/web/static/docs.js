// The API described for people: every route of /openapi.json with a command that asks it.

import { ask } from "./api.js";
import { $, el, fail } from "./dom.js";

let schemas = {};

const resolved = (schema) => (schema?.$ref ? schemas[schema.$ref.split("/").pop()] : schema || {});

/** A type in words: "list of string", "number or null". */
function kind(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(kind).join(" or ");
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.const !== undefined) return String(schema.const);
  if (schema.type === "array") return `list of ${kind(schema.items || {})}`;
  if (schema.type === "object" && schema.additionalProperties) return `object of ${kind(schema.additionalProperties)}`;
  return schema.type || "anything";
}

function table(caption, rows) {
  if (!rows.length) return null;
  return el("div.wide", { tabindex: 0, role: "region", "aria-label": caption },
    el("table.fields", {}, el("caption", {}, caption), el("tbody", {}, rows.map(([name, type, text]) =>
      el("tr", {}, el("th", { scope: "row" }, el("code", {}, name)), el("td", {}, type), el("td", {}, text || ""))))));
}

const fields = (schema) => Object.entries(resolved(schema).properties || {}).map(([name, each]) => [
  name + ((resolved(schema).required || []).includes(name) ? " *" : ""), kind(each), each.description]);

/** The command line that asks the route, with the document's own examples for all that must be given. */
function command(method, path, parameters, body) {
  const example = ({ schema, example: own }) => own ?? schema?.examples?.[0];
  const parts = ["curl -s"];
  if (method !== "get" && method !== "post") parts.push(`-X ${method.toUpperCase()}`);
  const filled = path.replaceAll(/\{(\w+)\}/g, (_, name) => example(parameters.find((each) => each.name === name)) ?? name.toUpperCase());
  const asked = parameters.filter((each) => each.in === "query" && each.required).map((each) => `${each.name}=${encodeURIComponent(example(each) ?? each.name.toUpperCase())}`);
  parts.push(`'${location.origin}${filled}${asked.length ? `?${asked.join("&")}` : ""}'`);
  if (body?.["application/json"]) {
    const sent = resolved(body["application/json"].schema).examples?.[0] || {};
    parts.push(`-H 'Content-Type: application/json' -d '${JSON.stringify(sent).replaceAll("'", "'\\''")}'`);
  } else if (body) parts.push("-F file=@texts.tsv");
  return parts.join(" ");
}

function operation(path, method, { summary, description, parameters = [], requestBody, responses }) {
  const [first, ...rest] = (description || "").split(/\n+/);
  const content = requestBody?.content;
  const sent = content && Object.values(content)[0].schema;
  const answers = Object.entries(responses).map(([status, { description: text, content: kinds }]) => [
    status, Object.entries(kinds || {}).map(([type, { schema }]) => (type === "application/json" ? kind(schema || {}) : type)).join(", "), text]);
  const answer = Object.entries(responses).find(([status]) => status < "300")?.[1].content?.["application/json"]?.schema;
  return el("details.route", {}, el("summary", {}, el("code", {}, `${method.toUpperCase()} ${path}`), ` ${first || summary}`),
    rest.length ? el("p", {}, rest.join(" ")) : null,
    el("pre", { tabindex: 0 }, command(method, path, parameters, content)),
    table("Parameters", parameters.map((each) => [each.name + (each.required ? " *" : ""), kind(each.schema), each.description || each.schema.description])),
    sent && table("Body (* must be given)", fields(sent)),
    answer && table(`Answer: ${kind(answer)}`, fields(answer)),
    table("Statuses", answers));
}

async function start() {
  try {
    const told = await ask("/openapi.json");
    schemas = told.components.schemas;
    $("summary").textContent = `${told.info.title} ${told.info.version}. ${told.info.summary}`;
    const groups = {};
    for (const [path, methods] of Object.entries(told.paths)) {
      for (const [method, each] of Object.entries(methods)) (groups[each.tags?.[0] || "other"] ??= []).push(operation(path, method, each));
    }
    $("operations").replaceChildren(...Object.entries(groups).flatMap(([name, routes]) => [el("h2", {}, name[0].toUpperCase() + name.slice(1)), ...routes]));
    document.body.dataset.ready = "yes";
  } catch (error) {
    fail("docs-error", error);
  }
}

start();
