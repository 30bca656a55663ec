// What /docs works out of a description: `node --test tests/reference.test.mjs`.
import assert from "node:assert/strict";
import { test } from "node:test";
import { bounds, curlLine, resolve, typeText } from "../static/reference-example.js";

const DESCRIPTION = {
  components: {
    parameters: {
      collection: { in: "path", name: "collection", required: true, example: "notes", schema: { type: "string" } },
      id: { in: "path", name: "id", required: true, example: "a/b", schema: { type: "string" } },
      from: { in: "query", name: "from", required: true, schema: { $ref: "#/components/schemas/Time" } },
      limit: { in: "query", name: "limit", schema: { type: "integer" } },
    },
    schemas: { Time: { type: "string", examples: ["42"] } },
  },
};
const named = (...names) => names.map((name) => ({ $ref: `#/components/parameters/${name}` }));

function line(method, path, operation) {
  return curlLine(DESCRIPTION, path, method, { responses: { 200: {} }, ...operation }, "http://localhost:7171");
}

test("a line for curl has what the call needs, and what is optional is left out", () => {
  assert.equal(line("get", "/v1/docs/{collection}", { parameters: named("collection", "limit") }), "curl 'http://localhost:7171/v1/docs/notes'");
  assert.equal(
    line("get", "/v1/docs/{collection}/{id}/diff", { parameters: named("collection", "id", "from") }),
    "curl 'http://localhost:7171/v1/docs/notes/a%2Fb/diff?from=42'",
  );
});

test("a body is quoted for the shell", () => {
  const content = { "application/json": { example: { words: "it's" } } };
  assert.equal(
    line("post", "/v1/tx", { requestBody: { content } }),
    `curl -X POST 'http://localhost:7171/v1/tx' -H 'Content-Type: application/json' -d '{"words":"it'\\''s"}'`,
  );
});

test("a WebSocket has no line for curl", () => {
  assert.equal(line("get", "/v1/ws", { responses: { 101: {} } }), null);
});

test("schemas are written as types", () => {
  const check = (schema, expected) => assert.equal(typeText(schema), expected);
  check({}, "any");
  check({ type: ["integer", "null"] }, "integer | null");
  check({ enum: ["asc", "desc"] }, '"asc" | "desc"');
  check({ anyOf: [{ $ref: "#/components/schemas/Time" }, { type: "null" }] }, "Time | null");
  check({ type: "array", items: { oneOf: [{ const: 1 }, { const: 2 }] } }, "(1 | 2)[]");
  check({ type: "object", required: ["a"], properties: { a: { type: "string" }, "$b": {} } }, '{ a: string, "$b"?: any }');
  check({ type: "object", additionalProperties: { type: "string" } }, "{ [name]: string }");
});

test("bounds are told in words", () => {
  assert.deepEqual(bounds({ minimum: 1, maximum: 1000, default: 100 }), ["1 to 1000", "100 if left out"]);
  assert.deepEqual(bounds({ minimum: 0, pattern: "^a$" }), ["at least 0", "^a$"]);
  assert.deepEqual(bounds(true), []);
});

test("a reference leads to what it names", () => {
  assert.equal(resolve(DESCRIPTION, named("limit")[0]).name, "limit");
  assert.equal(resolve(DESCRIPTION, DESCRIPTION), DESCRIPTION);
});
