// Against the node whose data folder STARLANE_DATA names.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { Client, Reply, StarlaneError } from "starlane-client";

const data = process.env.STARLANE_DATA;
const { api: address } = JSON.parse(readFileSync(join(data, "node.json"), "utf8"));
const api = process.env.STARLANE_API ?? `http://${address}`;
const token = readFileSync(join(data, "admin.token"), "utf8").trim();
const connect = () => Client.connect({ nodes: [api], token });
let client, other;

before(async () => {
  [client, other] = [await connect(), await connect()];
  await client.ensure("ts", "Space");
});
after(() => (client.close(), other.close()));

test("resources are made, found, changed, watched and taken away", async () => {
  const watch = other.watch("ts:*<Base>[size >= 3]");
  const steps = watch[Symbol.asyncIterator]();
  assert.equal((await steps.next()).value.event, "listed");
  const made = await client.create("ts:a", "Base", { size: 2, name: "ä \"x\"" });
  assert.deepEqual([made.kind, made.properties.size.value], ["Base", 2]);
  await client.set("ts:a", { size: 3, name: null });
  await client.set("ts:a", { size: 4 }, (await client.get("ts:a")).modified);
  await assert.rejects(client.set("ts:a", { size: 5 }, 1), { code: "E-REVISION-CONFLICT", outcome: "rejected" });
  const all = [];
  for await (const resource of client.select("ts:*<Base>")) all.push(resource.point);
  assert.deepEqual(all, ["ts:a"]);
  await client.delete("ts:a");
  const seen = [];
  while (seen.length < 3) {
    const { value } = await steps.next();
    if (value.event === "changed") seen.push(...value.changes.map(({ change }) => change));
  }
  assert.deepEqual(seen, ["entered", "updated", "left"]);
  // Another process goes on from the token.
  const again = client.watch("ts:*<Base>[size >= 3]", watch.token)[Symbol.asyncIterator]();
  await client.create("ts:b", "Base", { size: 9 });
  let next;
  do next = (await again.next()).value;
  while (next.event === "bookmark");
  assert.equal(next.changes[0].resource.point, "ts:b");
  await Promise.all([steps.return(), again.return()]);
  await assert.rejects(client.get("ts:a"), (error) => {
    assert(error instanceof StarlaneError);
    assert.equal(error.code, "E-NOT-FOUND");
    assert.match(error.problem.help, /starlane/);
    return true;
  });
  await assert.rejects(async () => {
    for await (const _ of client.watch("ts:(")) assert.fail();
  }, { code: "E-SYNTAX" });
});

test("a point is served: it answers, fails, and is gone with its service", async () => {
  const service = await connect();
  await service.serve(
    "ts:pay",
    async (incoming) => {
      if (incoming.method === "Ext<Fail>") throw new Error("no money");
      if (incoming.method === "Ext<Bytes>") return new Reply(200, [], Uint8Array.of(0xff, 0, incoming.body[0]));
      return Reply.json({ sum: incoming.json().sum * 2, from: incoming.from });
    },
    { kind: "Portal" },
  );
  const reply = await client.request("ts:pay", { method: "Pay", json: { sum: 21 } });
  assert.deepEqual([reply.status, reply.json().sum], [200, 42]);
  const bytes = await client.request("ts:pay", { method: "Bytes", bytes: Uint8Array.of(0xfe) });
  assert.deepEqual([...bytes.body], [0xff, 0, 0xfe]);
  await assert.rejects(client.request("ts:pay", { method: "Fail" }), { outcome: "failed", message: /no money/ });
  service.close();
  const refused = async () => {
    for (;;) {
      try {
        await client.request("ts:pay", { method: "Pay", json: { sum: 1 } });
      } catch (error) {
        if (error.outcome === "rejected") return error.code;
      }
    }
  };
  assert.equal(await refused(), "E-NOT-READY");
});

test("what is published is heard in order", async () => {
  await client.ensure("ts:prices", "Base");
  const topic = await other.subscribe("ts:prices");
  for (let n = 0; n < 20; n++) await client.publish("ts:prices", { path: `/${n}`, text: `price ${n}` });
  let n = 0;
  for await (const heard of topic) {
    assert.deepEqual([heard.event, heard.path, heard.text()], ["event", `/${n}`, `price ${n}`]);
    if (++n === 20) break;
  }
  await assert.rejects(client.subscribe("ts:none"), { code: "E-NOT-FOUND" });
});

test("a wrong token is told at once", async () => {
  await assert.rejects(Client.connect({ nodes: [api], token: "wrong" }), /token/);
});
