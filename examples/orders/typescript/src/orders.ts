#!/usr/bin/env node
// Orders as resources of a kind of their own, and a service that takes and closes them:
// `orders serve`, `orders make COUNT`, `orders watch`. Finds its node by STARLANE_DATA, or STARLANE_API and STARLANE_TOKEN.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { Client, Reply, StarlaneError, type Incoming } from "starlane-client";

/** Where orders are. */
export const ORDERS = "shop:orders";
/** Those that somebody should look after: large, and not paid. */
export const OPEN = "shop:orders:*<Order>[total >= 100 and not exists(paid)]";

const SCHEMA = {
  type: "object",
  properties: {
    total: { type: "number", minimum: 0 },
    customer: { type: "string" },
    note: { type: "string" },
    paid: { type: "boolean" },
  },
  required: ["total", "customer"],
  additionalProperties: false,
};
const AT_A_TIME = 64;
const PASSES = new Set(["E-UNREACHABLE", "E-TIMEOUT", "E-BUSY", "E-NOT-READY"]);

/** The node of the environment. */
export async function connect(): Promise<Client> {
  const { STARLANE_DATA: data, STARLANE_API: api, STARLANE_TOKEN: token } = process.env;
  if (api && token) return Client.connect({ nodes: [api], token, name: "orders" });
  if (!data) throw new Error("set STARLANE_DATA to a node's data folder, or STARLANE_API and STARLANE_TOKEN");
  const running = JSON.parse(readFileSync(join(data, "node.json"), "utf8")) as { api: string };
  const admin = readFileSync(join(data, "admin.token"), "utf8").trim();
  return Client.connect({ nodes: [`http://${running.api}`], token: admin, name: "orders" });
}

/** Makes the space, declares the kind, and makes the place where orders are. */
export async function declare(client: Client): Promise<void> {
  await client.ensure("shop", "Space");
  await client.ensure("shop:schemas", "FileSystem");
  const path = `/v1/files/${encodeURIComponent("shop:schemas:/order.json")}`;
  await client.call("PUT", path, JSON.stringify(SCHEMA), [["content-type", "application/json"]]);
  await client.ensure("shop:kinds", "Base");
  await client.ensure("shop:kinds:order", "Kind", { schema: "shop:schemas:/order.json" });
  await client.ensure(ORDERS, "Base");
}

/** Makes many orders; number `n` is `shop:orders:o-N` and costs `n` modulo 200. */
export async function make(client: Client, count: number): Promise<void> {
  let next = 0;
  const worker = async () => {
    for (let number = next++; number < count; number = next++) {
      const order = { total: number % 200, customer: `customer-${number % 10}` };
      await surely(() => client.ensure(`${ORDERS}:o-${number}`, "Order", order));
    }
  };
  await Promise.all(Array.from({ length: AT_A_TIME }, worker));
}

/** Marks an order as paid. */
export async function pay(client: Client, order: string): Promise<void> {
  await surely(() => client.set(order, { paid: true }));
}

/** Answers what is asked of `shop:orders`: `Place` makes an order, `Pay` closes one. */
export async function serve(client: Client): Promise<void> {
  await client.serve(ORDERS, async (incoming: Incoming) => {
    switch (incoming.method) {
      case "Ext<Place>": {
        // The node gives the number.
        const made = await client.create(`${ORDERS}:o-%`, "Order", incoming.json());
        return Reply.json({ order: made.point }, 201);
      }
      case "Ext<Pay>":
        await pay(client, incoming.json<{ order: string }>().order);
        return new Reply(204);
      default:
        throw new Error(`orders know \`Place\` and \`Pay\`, not \`${incoming.method}\``);
    }
  });
}

/** Prints what enters, changes in and leaves the list of large orders that are not paid. */
export async function follow(client: Client): Promise<void> {
  for await (const step of client.watch(OPEN)) {
    if (step.event === "listed") {
      for (const { point, kind } of step.resources) console.log(`listed  ${point}<${kind}>`);
      if (step.last) console.log("-- so far");
    } else if (step.event === "changed") {
      for (const { change, resource } of step.changes) {
        console.log(`${change.padEnd(7)} ${resource.point}<${resource.kind}>`);
      }
    } else if (step.event === "gone") {
      console.log("-- the history was too short; the list again");
    }
  }
}

/** Tries until it is known to be done, or surely not to be had. */
export async function surely<T>(ask: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof StarlaneError) || !PASSES.has(error.code)) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

async function main(words: string[]): Promise<void> {
  const [command, count] = words;
  if (!["serve", "make", "watch"].includes(command ?? "") || (command === "make" && !Number.isInteger(Number(count)))) {
    console.error("usage: orders serve | make COUNT | watch");
    process.exitCode = 2;
    return;
  }
  const client = await connect();
  if (command === "watch") return follow(client);
  await declare(client);
  if (command === "make") {
    await make(client, Number(count));
    return client.close();
  }
  await serve(client);
  console.error(`serving ${ORDERS}; stop with Ctrl-C`);
  process.once("SIGINT", () => void client.unserve(ORDERS).finally(() => client.close()));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main(process.argv.slice(2));
