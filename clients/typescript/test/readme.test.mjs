// The sample of the README, run as it is written, on the node whose data folder STARLANE_DATA names.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL("..", import.meta.url));
const data = process.env.STARLANE_DATA;
const { api: address } = JSON.parse(readFileSync(join(data, "node.json"), "utf8"));
const api = process.env.STARLANE_API ?? `http://${address}`;
const token = readFileSync(join(data, "admin.token"), "utf8").trim();

test("the sample of the README is answered, and told what it watches", async () => {
  const sample = /```ts\n([^]*?)```/.exec(readFileSync(join(folder, "README.md"), "utf8"))[1];
  const real = sample.replace("http://127.0.0.1:4343", api);
  assert.notEqual(real, sample, "it names a node");
  // Inside of the package, so that its name means it.
  const file = join(folder, "dist", `readme-${process.pid}.mjs`);
  writeFileSync(file, `const token = ${JSON.stringify(token)};\n${real.replace("for await", "console.log(reply.status, reply.text());\nfor await")}`);
  const program = spawn(process.execPath, [file], { stdio: ["ignore", "pipe", "inherit"] });
  try {
    let printed = "";
    program.stdout.setEncoding("utf8").on("data", (text) => (printed += text));
    while (!printed.includes("listed")) await Promise.race([once(program.stdout, "data"), once(program, "exit").then(() => assert.fail(`it ended: ${printed}`))]);
    assert.match(printed, /^200 hello, mesh:/);
  } finally {
    program.kill();
    rmSync(file);
  }
});
