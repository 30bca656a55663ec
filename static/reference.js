// The page /docs: draws the description of the API that this node serves.
import { h } from "./dom.js";
import { nodeOf } from "./http.js";
import { bounds, curlLine, resolve, typeText } from "./reference-example.js";

const METHODS = ["get", "put", "post", "patch", "delete"];
let description;

/// Words with `code` in them, as elements.
function words(text) {
  return (text ?? "").split("`").map((part, index) => (index % 2 ? h("code", {}, part) : part));
}

/// A schema as text in which the names of others are links.
function type(schema) {
  const text = typeText(schema, (name) => `\u0001${name}\u0001`);
  const parts = text.split("\u0001");
  return h("code", { class: "type" }, parts.map((part, index) => (index % 2 ? h("a", { href: `#schema-${part}` }, part) : part)));
}

function operations() {
  const all = Object.entries(description.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, says]) => ({ path, method, says, id: says.operationId, tag: says.tags[0] })),
  );
  return all.sort((one, other) => one.path.localeCompare(other.path) || METHODS.indexOf(one.method) - METHODS.indexOf(other.method));
}

function badge(method) {
  return h("span", { class: `method ${method}` }, method.toUpperCase());
}

function contents(all) {
  return description.tags.map(({ name }) => [
    h("h2", {}, name),
    h("ul", {}, all.filter(({ tag }) => tag === name).map(({ id, method, path }) =>
      h("li", {}, h("a", { href: `#${id}` }, badge(method), h("span", { class: "path" }, path))))),
  ]);
}

function parameterRows(says) {
  return (says.parameters ?? []).map((one) => resolve(description, one)).map((one) => {
    const schema = one.schema ?? one.content["application/json"].schema;
    const said = bounds(resolve(description, schema));
    return h("tr", {},
      h("th", { scope: "row" }, h("code", {}, one.name), one.required ? h("span", { class: "needed" }, " needed") : null),
      h("td", { class: "quiet" }, one.in),
      h("td", {}, type(schema), " ", words(one.description), said.length ? h("span", { class: "quiet bounds" }, ` (${said.join("; ")})`) : null));
  });
}

function example(value) {
  return h("pre", { tabindex: "0" }, h("code", {}, typeof value === "string" ? value : JSON.stringify(value, null, 2)));
}

function content(of) {
  return Object.entries(of ?? {}).map(([media, { schema, example: shown }]) => [
    h("p", {}, h("code", {}, media), " ", schema ? type(schema) : null),
    shown === undefined ? null : example(shown),
  ]);
}

function answer([status, refered]) {
  const said = resolve(description, refered);
  const headers = Object.keys(said.headers ?? {});
  return h("li", {}, h("b", {}, status), " ", words(said.description),
    headers.length ? h("p", { class: "quiet" }, "Headers: ", headers.map((name, index) => [index ? ", " : "", h("code", {}, name)])) : null,
    content(said.content));
}

function problemRows(answers) {
  return answers.flatMap(([status, refered]) =>
    resolve(description, refered).description.split(".\n").map((said) =>
      h("tr", {}, h("th", { scope: "row" }, status), h("td", {}, words(said)))));
}

/// Puts a line on the clipboard, or where a browser has none to give (a page that came in clear from elsewhere) selects it.
async function copy(button, code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

function curl(operation) {
  const line = curlLine(description, operation.path, operation.method, operation.says, nodeOf(import.meta.url));
  if (!line) {
    return operation.id === "openLink" ? null : h("p", {}, "A WebSocket: see ", h("a", { href: "static/websocket.md" }, "its messages"), ".");
  }
  const code = h("code", {}, line);
  const button = h("button", { type: "button", class: "copy", "aria-label": `Copy the line for ${operation.id}` }, "Copy");
  button.addEventListener("click", () => copy(button, code));
  return h("div", { class: "curl" }, h("pre", { tabindex: "0" }, code), button);
}

function table(title, rows) {
  return rows.length ? [h("h4", {}, title), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, h("table", {}, h("tbody", {}, rows)))] : null;
}

function card(operation) {
  const { says, method, path, id } = operation;
  const answers = Object.entries(says.responses);
  const isProblem = ([status]) => status >= 400;
  return h("details", { class: "operation", id },
    h("summary", {}, badge(method), h("span", { class: "path" }, path), h("span", { class: "quiet" }, says.summary)),
    h("div", { class: "operation-body" },
      h("p", {}, words(says.description ?? `${says.summary}.`)),
      says.security?.length === 0 ? h("p", { class: "quiet" }, "Needs no token.") : null,
      curl(operation),
      table("Parameters", parameterRows(says)),
      says.requestBody ? [h("h4", {}, "Body"), content(says.requestBody.content)] : null,
      h("h4", {}, "Answers"), h("ul", { class: "answers" }, answers.filter((one) => !isProblem(one)).map(answer)),
      table("Problems", problemRows(answers.filter(isProblem)))));
}

function schemas() {
  return h("section", { class: "card", id: "schemas", "aria-labelledby": "schemas-title" },
    h("h2", { id: "schemas-title" }, "Schemas"),
    Object.entries(description.components.schemas).map(([name, schema]) => {
      const said = bounds(schema);
      return h("div", { class: "schema", id: `schema-${name}`, tabindex: "-1" },
        h("h3", {}, name), h("p", {}, type(schema), " ", words(schema.description), said.length ? h("span", { class: "quiet bounds" }, ` (${said.join("; ")})`) : null));
    }));
}

/// Opens what the address names, so that a link to an operation shows it.
function openNamed() {
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named?.tagName === "DETAILS") named.open = true;
  named?.scrollIntoView();
  (named?.querySelector("summary") ?? named)?.focus({ preventScroll: true });
}

async function draw() {
  const place = document.getElementById("operations");
  const answer = await fetch("openapi.json");
  description = await answer.json();
  const all = operations();
  const intro = h("section", { class: "card" }, h("p", {}, words(description.info.description)),
    h("p", { class: "token-hint quiet" }, "Where a node asks for a token, send it with every request: ", h("code", {}, "-H 'Authorization: Bearer …'"), ". Bodies and answers are JSON where nothing else is said."));
  const groups = description.tags.map(({ name, description: told }) =>
    h("section", { class: "card", "aria-labelledby": `tag-${name}` }, h("h2", { id: `tag-${name}` }, name), h("p", { class: "quiet" }, told),
      all.filter(({ tag }) => tag === name).map((operation) => card(operation))));
  document.getElementById("contents").replaceChildren(...contents(all).flat());
  place.replaceChildren(intro, ...groups, schemas());
  addEventListener("hashchange", openNamed);
  openNamed();
}

draw().catch((error) => {
  document.getElementById("operations").replaceChildren(h("p", { class: "error", role: "alert" }, `The description cannot be read: ${error.message}. Is the node still there?`));
});
