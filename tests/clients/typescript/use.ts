// An agent in TypeScript: the client is generated from the OpenAPI document, and used for real.
//
//   node use.js URL MEMORY SESSION
//
// Whatever is not as it should be ends it with code 1; at the end it prints what it saw, as JSON.

import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

type Problem = components["schemas"]["Problem"];

const [url, memory, session] = process.argv.slice(2) as [string, string, string];
const client = createClient<paths>({ baseUrl: url });
const path = { memory, session };

function ok<T>(answer: { data?: T; error?: Problem; response: Response }): T {
  assert.equal(answer.error, undefined);
  assert.ok(answer.response.ok);
  return answer.data as T;
}

function refused(answer: { error?: Problem; response: Response }, code: string): Problem {
  assert.equal(answer.error?.code, code);
  assert.equal(answer.response.headers.get("content-type"), "application/problem+json");
  return answer.error;
}

const MESSAGES = "/v1/memories/{memory}/sessions/{session}/messages";
const TURNS = "/v1/memories/{memory}/sessions/{session}/turns";

const offered = ok(await client.GET("/v1/memories"));
assert.ok(offered.memories.some((one) => one.name === memory && one.access === "ReadWrite"));

const hello = { role: "user", content: "Grüße, wo ist mein Paket? 📦" };
const header = { "Idempotency-Key": "request-1" };
const append = () =>
  client.POST(MESSAGES, { params: { path, header }, body: { message: hello } });
const first = ok(await append());
assert.equal(first.count, 1);
assert.equal(ok(await append()).duplicate, true);

const page = ok(
  await client.GET("/v1/memories/{memory}/sessions/{session}/records", {
    params: { path, query: { limit: 1 } },
  }),
);
assert.deepEqual(page.records[0]?.item, hello);
assert.equal(page.records[0]?.id, "request-1");

const grant = ok(await client.POST(TURNS, { params: { path }, body: { ttl: "30s" } }));
assert.ok(typeof grant !== "string"); // which it would be as a stream of events
const busy = refused(
  await client.POST(TURNS, { params: { path }, body: { wait: "0s" } }),
  "SessionBusy",
);
assert.ok((busy.remaining ?? 0) > 0);
const turn = { "Holdfast-Turn": grant.token };
ok(
  await client.POST(MESSAGES, {
    params: { path, header: turn, query: { label: ["team:red", "tier:a,b"] } },
    body: { messages: [{ role: "assistant", content: "Unterwegs." }, { role: "user", content: "Danke" }] },
  }),
);
const renewed = ok(
  await client.PUT("/v1/memories/{memory}/sessions/{session}/turns/{token}", {
    params: { path: { ...path, token: grant.token } },
  }),
);
assert.equal(renewed.fence, grant.fence);
const released = await client.DELETE("/v1/memories/{memory}/sessions/{session}/turns/{token}", {
  params: { path: { ...path, token: grant.token } },
});
assert.equal(released.response.status, 204);
refused(
  await client.POST(MESSAGES, { params: { path, header: turn }, body: { message: "late" } }),
  "LeaseLost",
);

refused(
  await client.GET(MESSAGES, { params: { path: { memory: "nobody", session } } }),
  "MemoryNotFound",
);
const small = refused(
  await client.GET(MESSAGES, { params: { path, query: { max_tokens: 1 } } }),
  "BudgetTooSmall",
);
assert.ok((small.needed ?? 0) > 1);

const read = ok(await client.GET(MESSAGES, { params: { path, query: { max_tokens: 1000 } } }));
assert.equal(read.messages.length, 3);
const exported = await client.GET("/v1/memories/{memory}/sessions/{session}/export", {
  params: { path },
  parseAs: "stream",
});
let lines = 0;
const decoder = new TextDecoder();
for await (const part of exported.data as unknown as AsyncIterable<Uint8Array>) {
  lines += decoder.decode(part, { stream: true }).split("\n").length - 1;
}
const health = ok(
  await client.GET("/v1/memories/{memory}/sessions/{session}", { params: { path } }),
);
console.log(JSON.stringify({ messages: read.messages, tokens: health.tokens, lines }));
