/**
 * For services and pages without Wasm: a process that joins the mesh through the portal of a node.
 *
 * A connection that breaks is made again: points are served again, subscriptions and watches go on, each watch after the last
 * step that it told. What was asked and not answered by then ends as a `StarlaneError` with the outcome `unknown`, since it
 * may have been done; nothing is asked twice by itself.
 */
export { Client, type Options, type ServeOptions } from "./client.js";
export { StarlaneError, type Outcome, type Problem } from "./error.js";
export { Incoming, Reply, type Call, type Handler } from "./message.js";
export type { Change, Heard, Properties, Property, Resource, Status, Step } from "./resource.js";
export type { Topic, Watch } from "./flow.js";
