// Against the node whose data folder STARLANE_DATA names.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { OPEN, ORDERS, connect, declare, make, serve } from "../dist/orders.js";

let client, watcher;

before(async () => {
  [client, watcher] = [await connect(), await connect()];
  await declare(client);
});
after(() => (client.close(), watcher.close()));

test("large orders that are not paid are seen to enter and leave", async () => {
  const steps = watcher.watch(OPEN)[Symbol.asyncIterator]();
  assert.equal((await steps.next()).value.event, "listed");
  await make(client, 200);
  await serve(client);
  const placed = await client.request(ORDERS, { method: "Place", json: { total: 120, customer: "ann" } });
  assert.equal(placed.status, 201);
  const { order } = placed.json();
  assert.equal((await client.request(ORDERS, { method: "Pay", json: { order } })).status, 204);
  const seen = new Map();
  while (seen.get(order) !== "entered left") {
    const { value } = await steps.next();
    for (const { change, resource } of value.changes ?? []) {
      seen.set(resource.point, [seen.get(resource.point), change].filter(Boolean).join(" "));
    }
  }
  const entered = [...seen].filter(([point, steps]) => point !== order && steps === "entered");
  assert.equal(entered.length, 100);
  assert.equal(seen.size, 101);
  await steps.return();
});

test("an order that is none is refused by its schema, with the place", async () => {
  await assert.rejects(client.create(`${ORDERS}:bad`, "Order", { total: -1 }), (error) => {
    assert.equal(error.code, "E-SCHEMA");
    assert(error.problem.errors.some(({ pointer }) => pointer === "/total"), JSON.stringify(error.problem));
    return true;
  });
});
