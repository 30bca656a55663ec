// What the reference shows of a description, worked out without a page: targets of references, schemas as short text, and
// lines for curl.

/// What a reference leads to; anything else is itself.
export function resolve(description, value) {
  const parts = value?.$ref?.slice(2).split("/");
  return parts ? parts.reduce((place, name) => place[name], description) : value;
}

/// A schema in a line, as TypeScript would write it. `name` is how a reference to a schema is written.
export function typeText(schema, name = (reference) => reference) {
  if (schema === undefined || schema === true || Object.keys(schema).length === 0) return "any";
  if (schema.$ref) return name(schema.$ref.split("/").pop());
  const inner = (part) => typeText(part, name);
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const options = schema.anyOf ?? schema.oneOf;
  if (options) return options.map(inner).join(" | ");
  if (schema.allOf) return schema.allOf.map(inner).join(" & ");
  const types = [schema.type ?? []].flat();
  return types.map((type) => typeOf(type, schema, inner)).join(" | ") || "any";
}

function typeOf(type, schema, inner) {
  if (type === "array") {
    const item = inner(schema.items);
    return item.includes(" ") ? `(${item})[]` : `${item}[]`;
  }
  if (type !== "object") return type === "integer" ? "integer" : type;
  const required = new Set(schema.required ?? []);
  const members = Object.entries(schema.properties ?? {}).map(
    ([member, its]) => `${/^\w+$/.test(member) ? member : JSON.stringify(member)}${required.has(member) ? "" : "?"}: ${inner(its)}`,
  );
  const others = [...Object.values(schema.patternProperties ?? {}), ...(typeof schema.additionalProperties === "object" ? [schema.additionalProperties] : [])];
  const all = [...members, ...others.map((its) => `[name]: ${inner(its)}`)];
  return all.length ? `{ ${all.join(", ")} }` : "{}";
}

/// The bounds that a schema sets, in words.
export function bounds(schema) {
  const said = [];
  const say = (name, words) => schema?.[name] !== undefined && said.push(words(schema[name]));
  if (schema?.minimum !== undefined && schema?.maximum !== undefined) said.push(`${schema.minimum} to ${schema.maximum}`);
  else {
    say("minimum", (least) => `at least ${least}`);
    say("maximum", (most) => `at most ${most}`);
  }
  say("maxLength", (most) => `at most ${most} characters`);
  say("maxItems", (most) => `at most ${most} items`);
  say("pattern", (pattern) => pattern);
  say("default", (value) => `${value} if left out`);
  return said;
}

const quoted = (text) => `'${String(text).replaceAll("'", `'\\''`)}'`;

/// The line with which curl asks for an operation; none for a WebSocket.
export function curlLine(description, path, method, operation, origin) {
  if (operation.responses["101"]) return null;
  const parameters = (operation.parameters ?? []).map((parameter) => resolve(description, parameter));
  const filled = path.replace(/\{(\w+)\}/g, (_, name) => {
    const parameter = parameters.find((one) => one.in === "path" && one.name === name);
    const schema = resolve(description, parameter?.schema);
    return encodeURIComponent(parameter?.example ?? schema?.examples?.[0] ?? schema?.enum?.[0] ?? name);
  });
  const needed = parameters.filter((one) => one.in === "query" && one.required);
  const query = needed.map((one) => `${one.name}=${encodeURIComponent(resolve(description, one.schema).examples?.[0] ?? "")}`);
  const words = ["curl"];
  if (method !== "get") words.push("-X", method.toUpperCase());
  words.push(quoted(`${origin}${filled}${query.length ? `?${query.join("&")}` : ""}`));
  const [media, body] = Object.entries(operation.requestBody?.content ?? {})[0] ?? [];
  if (media) {
    const text = typeof body.example === "string" && !media.includes("json") ? body.example : JSON.stringify(body.example);
    words.push("-H", quoted(`Content-Type: ${media}`), "-d", quoted(text));
  }
  return words.join(" ");
}
