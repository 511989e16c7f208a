import { StarlaneError, type Outcome, type Problem } from "./error.js";
import { Topic, Watch } from "./flow.js";
import { Incoming, Reply, content, read, written, type Body, type Call, type Handler } from "./message.js";
import type { Properties, Resource, Step } from "./resource.js";

/** Where a client connects, and as whom. */
export interface Options {
  /** The API of a node, or of several of one mesh, as `http://HOST:PORT`, or as `https://HOST:PORT` when it speaks TLS: another is tried when one is out of reach. */
  nodes: string[];
  /** The token of the API. */
  token: string;
  /** What the client calls itself, for the node's logs. */
  name?: string;
  /** How many messages its services handle at a time; 64 without it. */
  concurrency?: number;
  /** How long answers are waited for, in milliseconds; 30,000 without it. */
  timeoutMs?: number;
}

export interface ServeOptions {
  /** As what the point is made when it is not there. */
  kind?: string;
}

interface Frame extends Body {
  op: string;
  id?: number;
  [member: string]: unknown;
}

interface Pending {
  done(frame: Frame): void;
  failed(error: StarlaneError): void;
}

interface Served {
  handler: Handler;
  kind: string | undefined;
  /** The operation that asked for it on this connection. */
  askedAs?: number;
}

const CONNECT_MS = 10_000;
const AGAIN_MS = [100, 5_000] as const;
/** So much longer than the node's deadline its answer is waited for. */
const ON_THE_WAY_MS = 2_000;
const PASSES = new Set(["E-UNREACHABLE", "E-BUSY", "E-NOT-READY", "E-TIMEOUT"]);

/** A process in the mesh. */
export class Client {
  private socket: WebSocket | undefined;
  private closed = false;
  private last = 0;
  private handling = 0;
  private readonly pending = new Map<number, Pending>();
  private readonly served = new Map<string, Served>();
  private readonly handled = new Map<number, AbortController>();
  private readonly watches = new Map<number, { watch: Watch; select: string; asked: boolean }>();
  private readonly topics = new Map<number, { topic: Topic; point: string; asked: boolean; known: boolean }>();
  /** Who waits for a connection. */
  private waiting: (() => void)[] = [];

  private constructor(private readonly options: Options) {}

  /** Joins the mesh at one of the nodes. From then on a connection that breaks is made again. */
  static async connect(options: Options): Promise<Client> {
    if (options.nodes.length === 0) throw StarlaneError.rejected("E-USAGE", "no node is named to connect to");
    const client = new Client(options);
    let failure: unknown;
    for (const node of options.nodes) {
      try {
        await client.open(node);
        return client;
      } catch (error) {
        failure = error;
      }
    }
    throw failure;
  }

  /** Leaves the mesh. */
  close(): void {
    this.closed = true;
    this.socket?.close();
    this.lose();
    for (const { watch } of this.watches.values()) watch.end();
    for (const { topic } of this.topics.values()) topic.end();
  }

  /** Asks a point and waits for the answer, whatever its status. */
  async request(to: string, call: Call = {}): Promise<Reply> {
    return answer(await this.ask({ op: "request", ...this.say(to, call) }, call.timeoutMs));
  }

  /** Tells a point something; done when it is on its way. */
  async send(to: string, call: Call = {}): Promise<void> {
    await this.ask({ op: "send", ...this.say(to, call) }, call.timeoutMs);
  }

  /** Tells all who subscribe to a topic something; done when it is on its way. */
  async publish(topic: string, call: Call = {}): Promise<void> {
    await this.ask({ op: "publish", ...this.say(topic, call) }, call.timeoutMs);
  }

  /** Hears what is published to a topic, a resource of any kind, from now on. */
  async subscribe(point: string): Promise<Topic> {
    const id = ++this.last;
    const topic: Topic = new Topic(
      (more) => this.grant(id, topic, more),
      () => this.topics.delete(id) && this.cancel(id),
    );
    await this.connected();
    topic.granted = topic.room();
    this.topics.set(id, { topic, point, asked: true, known: false });
    try {
      await this.ask({ op: "subscribe", id, topic: point, grant: topic.granted });
    } catch (error) {
      this.topics.delete(id);
      throw error;
    }
    const known = this.topics.get(id);
    if (known) known.known = true;
    return topic;
  }

  /** Watches what a selector means: the list and then its changes, or only those after `since`. */
  watch(select: string, since?: string): Watch {
    const id = ++this.last;
    const watch: Watch = new Watch(
      (more) => this.grant(id, watch, more),
      () => this.watches.delete(id) && this.cancel(id),
    );
    watch.token = since;
    this.watches.set(id, { watch, select, asked: false });
    this.askAgain();
    return watch;
  }

  /** Answers the messages of a point, together with all others who serve it, until `unserve` or the client's end. */
  async serve(point: string, handler: Handler, options: ServeOptions = {}): Promise<void> {
    const id = ++this.last;
    await this.connected();
    this.served.set(point, { handler, kind: options.kind, askedAs: id });
    try {
      await this.ask({ op: "serve", id, point, ...(options.kind && { kind: options.kind }) });
    } catch (error) {
      this.served.delete(point);
      throw error;
    }
  }

  /** Serves a point no more; what was begun is still answered. */
  async unserve(point: string): Promise<void> {
    if (this.served.delete(point)) await this.ask({ op: "unserve", point });
  }

  /** A call of the `/v1` API: its answer, whatever its status. */
  async call(method: string, path: string, body = "", headers: [string, string][] = []): Promise<Reply> {
    return answer(await this.ask({ op: "api", method, path, headers, ...written(body) }));
  }

  /** Makes a resource. */
  async create(point: string, kind: string, properties: Properties = {}): Promise<Resource> {
    return this.make(point, kind, properties, "new");
  }

  /** Makes a resource unless one of the kind is there, which stays as it is. */
  async ensure(point: string, kind: string, properties: Properties = {}): Promise<Resource> {
    return this.make(point, kind, properties, "ensure");
  }

  private async make(point: string, kind: string, properties: Properties, mode: string): Promise<Resource> {
    const body = JSON.stringify({ point, kind, properties, mode });
    return document(await this.call("POST", "/v1/resources", body));
  }

  /** The resource at a point. */
  async get(point: string): Promise<Resource> {
    return document(await this.call("GET", path(point)));
  }

  /** Changes properties, all or none: `null` takes one away. With `expect` only when it was last changed at that revision. */
  async set(point: string, properties: Properties, expect?: number): Promise<Resource> {
    const entries = Object.entries(properties);
    const set = Object.fromEntries(entries.filter(([, value]) => value !== null));
    const unset = entries.filter(([, value]) => value === null).map(([key]) => key);
    const headers: [string, string][] = expect === undefined ? [] : [["if-match", `"${expect}"`]];
    return document(await this.call("PATCH", path(point), JSON.stringify({ set, unset }), headers));
  }

  /** Takes a resource away, with `recursive` all below it too. */
  async delete(point: string, recursive = false): Promise<void> {
    document(await this.call("DELETE", `${path(point)}?recursive=${recursive}`));
  }

  /** All that a selector means, in the order of points, page by page. */
  async *select(selector: string): AsyncGenerator<Resource> {
    let cursor = "";
    do {
      const query = `select=${encodeURIComponent(selector)}&limit=1000${cursor}`;
      const reply = await this.call("GET", `/v1/resources?${query}`);
      const page: { resources: Resource[]; next?: string } = document(reply);
      yield* page.resources;
      cursor = page.next === undefined ? "" : `&cursor=${encodeURIComponent(page.next)}`;
    } while (cursor !== "");
  }

  /** Runs the statements of a script; answers what each of them answered. */
  async exec(script: string): Promise<unknown[]> {
    const reply = await this.call("POST", "/v1/exec", script, [["content-type", "text/plain"]]);
    return document<{ results: unknown[] }>(reply).results;
  }

  private say(to: string, call: Call): Omit<Frame, "op"> {
    const timeoutMs = call.timeoutMs ?? this.options.timeoutMs ?? 30_000;
    const { within, method, path } = call;
    return {
      to,
      timeoutMs,
      ...(method !== undefined && { method }),
      ...(path !== undefined && { path }),
      ...((call.from ?? within?.point) !== undefined && { from: call.from ?? within?.point }),
      ...(within?.id !== undefined && { within: within.id }),
      ...content(call),
    };
  }

  /** Says a frame, and waits for what comes of it. */
  private async ask(frame: Frame, timeoutMs?: number): Promise<Frame> {
    const patience = (timeoutMs ?? this.options.timeoutMs ?? 30_000) + ON_THE_WAY_MS;
    const until = Date.now() + patience;
    await this.connected(until);
    const id = (frame.id ??= ++this.last);
    return new Promise((resolve, reject) => {
      const late = () => {
        this.pending.delete(id);
        this.tell({ op: "cancel", id });
        const detail = "no answer came before the deadline";
        reject(new StarlaneError("unknown", { code: "E-TIMEOUT", detail }));
      };
      const timer = setTimeout(late, Math.max(0, until - Date.now()));
      const over = () => (clearTimeout(timer), this.pending.delete(id));
      this.pending.set(id, {
        done: (frame) => (over(), resolve(frame)),
        failed: (error) => (over(), reject(error)),
      });
      this.tell(frame);
    });
  }

  private tell(frame: Frame): void {
    if (this.socket?.readyState === 1) this.socket.send(JSON.stringify(frame));
  }

  private cancel(id: number): void {
    this.tell({ op: "cancel", id });
  }

  private grant(id: number, flow: Watch | Topic, more: number): void {
    if (this.socket?.readyState !== 1) return;
    flow.granted += more;
    this.tell({ op: "grant", id, more });
  }

  /** Waits until there is a connection. */
  private async connected(until = Date.now() + (this.options.timeoutMs ?? 30_000)): Promise<void> {
    while (this.socket === undefined) {
      if (this.closed) throw StarlaneError.rejected("E-UNREACHABLE", "the client is closed");
      const left = until - Date.now();
      if (left <= 0) throw StarlaneError.rejected("E-UNREACHABLE", "no node was in reach in time");
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.waiting.push(() => (clearTimeout(timer), resolve()));
      });
    }
  }

  private async open(node: string): Promise<void> {
    const failed = (why: string) => StarlaneError.rejected("E-UNREACHABLE", `\`${node}\`: ${why}`);
    const url = `${node.replace(/^http/, "ws").replace(/\/$/, "")}/v1/ws`;
    const socket = await newSocket(url);
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => (socket.close(), reject(failed("it does not answer"))), CONNECT_MS);
      const settle = (act: () => void) => (clearTimeout(timer), act());
      // Node says why; a browser tells no page, only its own console.
      socket.onerror = (event) => {
        const { message } = event as { message?: string };
        settle(() => reject(failed(message ? `no connection: ${message}` : "no connection")));
      };
      socket.onclose = () => settle(() => reject(failed("it closed the connection")));
      socket.onopen = () => {
        const { token, name } = this.options;
        socket.send(JSON.stringify({ op: "hello", version: 1, token, name: name ?? "starlane-client" }));
      };
      socket.onmessage = ({ data }) => {
        const frame = JSON.parse(String(data)) as Frame;
        settle(() => (frame.op === "welcome" ? resolve() : reject(failed((frame["problem"] as Problem).detail))));
      };
    });
    if (this.closed) return socket.close();
    socket.onerror = () => socket.close();
    socket.onclose = () => this.broke();
    socket.onmessage = ({ data }) => this.hear(JSON.parse(String(data)) as Frame);
    this.socket = socket;
    const more = (this.options.concurrency ?? 64) - this.handling;
    if (more > 0) this.tell({ op: "grant", more });
    this.askAgain();
    for (const wake of this.waiting.splice(0)) wake();
  }

  /** The connection ended; another is made. */
  private broke(): void {
    this.socket = undefined;
    this.lose();
    if (!this.closed) void this.reconnect();
  }

  private async reconnect(): Promise<void> {
    for (let attempt = 0; !this.closed; attempt++) {
      const wait = Math.min(AGAIN_MS[0] * 2 ** attempt, AGAIN_MS[1]);
      await new Promise((resolve) => setTimeout(resolve, wait / 2 + (Math.random() * wait) / 2));
      const node = this.options.nodes[attempt % this.options.nodes.length];
      try {
        if (node !== undefined && !this.closed) return await this.open(node);
      } catch {
        // The next attempt comes.
      }
    }
  }

  /** What was asked and not answered may have been done. */
  private lose(): void {
    for (const pending of [...this.pending.values()]) pending.failed(StarlaneError.lost());
    for (const handled of this.handled.values()) handled.abort();
    this.handled.clear();
    for (const served of this.served.values()) delete served.askedAs;
    for (const flow of this.watches.values()) (flow.watch.granted = 0), (flow.asked = false);
    for (const flow of this.topics.values()) (flow.topic.granted = 0), (flow.asked = false);
  }

  /** Asks for what goes on and this connection does not know of yet. */
  private askAgain(): void {
    if (this.socket === undefined) return;
    for (const [point, served] of this.served) {
      if (served.askedAs !== undefined) continue;
      served.askedAs = ++this.last;
      this.tell({ op: "serve", id: served.askedAs, point, ...(served.kind && { kind: served.kind }) });
    }
    for (const [id, flow] of this.watches) {
      if (flow.asked) continue;
      flow.asked = true;
      flow.watch.granted = flow.watch.room();
      const since = flow.watch.token;
      this.tell({ op: "watch", id, select: flow.select, grant: flow.watch.granted, ...(since && { since }) });
    }
    for (const [id, flow] of this.topics) {
      if (flow.asked) continue;
      flow.asked = true;
      flow.topic.granted = flow.topic.room();
      this.tell({ op: "subscribe", id, topic: flow.point, grant: flow.topic.granted });
    }
  }

  private again(): void {
    setTimeout(() => this.askAgain(), 1_000);
  }

  private hear(frame: Frame): void {
    const id = frame.id ?? 0;
    switch (frame.op) {
      case "done": {
        this.pending.get(id)?.done(frame);
        const topic = this.topics.get(id);
        if (topic?.known) topic.topic.put({ event: "reconnected" });
        return;
      }
      case "reply":
        return this.pending.get(id)?.done(frame);
      case "error":
        return this.failed(id, (frame["outcome"] as Outcome | undefined) ?? "rejected", frame["problem"] as Problem);
      case "request":
      case "signal":
        return void this.handle(frame);
      case "cancel":
        this.handled.get(id)?.abort();
        return;
      case "change": {
        const flow = this.watches.get(id);
        if (flow === undefined) return;
        flow.watch.granted--;
        const step = frame["event"] as Step;
        flow.watch.token = step.token === "" ? undefined : step.token;
        return flow.watch.put(step);
      }
      case "event": {
        const flow = this.topics.get(id);
        if (flow === undefined) return;
        flow.topic.granted--;
        const event = new Reply(200, (frame["headers"] as [string, string][] | undefined) ?? [], read(frame));
        const body = typeof event.body === "string" ? new TextEncoder().encode(event.body) : event.body;
        const { from, path } = frame as unknown as { from: string; path: string };
        return flow.topic.put({ event: "event", from, path, headers: event.headers, body, text: () => event.text() });
      }
      case "gap":
        return this.topics.get(id)?.topic.put({ event: "gap", missed: frame["missed"] as number });
      case "end": {
        const flow = this.watches.get(id) ?? this.topics.get(id);
        if (flow !== undefined) flow.asked = false;
        return this.again();
      }
      case "bye":
        if (this.pending.size === 0 && this.handled.size === 0) this.socket?.close();
        return;
    }
  }

  private failed(id: number, outcome: Outcome, problem: Problem): void {
    const error = new StarlaneError(outcome, problem);
    const pending = this.pending.get(id);
    if (pending) return pending.failed(error);
    const flow = this.watches.get(id) ?? this.topics.get(id);
    if (flow !== undefined) {
      flow.asked = false;
      if (PASSES.has(error.code)) return this.again();
      (this.watches.get(id)?.watch ?? this.topics.get(id)?.topic)?.end(error);
      this.watches.delete(id);
      this.topics.delete(id);
      return;
    }
    for (const served of this.served.values()) {
      if (served.askedAs !== id) continue;
      delete served.askedAs;
      this.again();
    }
  }

  private async handle(frame: Frame): Promise<void> {
    const heard = frame as unknown as Record<"point" | "from" | "agent" | "method" | "path" | "trace", string>;
    const id = frame.op === "request" ? frame.id : undefined;
    const socket = this.socket;
    const aborts = new AbortController();
    if (id !== undefined) this.handled.set(id, aborts);
    const headers = (frame["headers"] as [string, string][] | undefined) ?? [];
    const { point, from, agent, method, path, trace } = heard;
    const incoming = new Incoming(id, point, from, agent, method, path, headers, read(frame), trace, aborts.signal);
    this.handling++;
    let said: Frame;
    try {
      const served = this.served.get(point);
      if (served === undefined) {
        said = { op: "fail", detail: `\`${point}\` is served no more`, ran: false };
      } else {
        const reply = (await served.handler(incoming)) ?? new Reply(204);
        said = { op: "reply", status: reply.status, headers: reply.headers, ...written(reply.body) };
      }
    } catch (error) {
      said = { op: "fail", detail: error instanceof Error ? error.message : String(error) };
    }
    this.handling--;
    // What was begun on a connection that broke is not answered on another; its place is granted there.
    if (id !== undefined && this.handled.delete(id) && socket === this.socket) this.tell({ ...said, id });
    this.tell({ op: "grant", more: 1 });
  }
}

/** A connection, by the browser's own or Node's, and where that has none by `ws`. */
async function newSocket(url: string): Promise<WebSocket> {
  if (typeof globalThis.WebSocket === "function") return new globalThis.WebSocket(url);
  const name = "ws";
  const { WebSocket } = (await import(name)) as { WebSocket: new (url: string) => WebSocket };
  return new WebSocket(url);
}

function path(point: string): string {
  return `/v1/resources/${encodeURIComponent(point)}`;
}

function answer(frame: Frame): Reply {
  const headers = (frame["headers"] as [string, string][] | undefined) ?? [];
  return new Reply(frame["status"] as number, headers, read(frame));
}

/** The document of an answer, or the problem in its place. */
function document<T>(reply: Reply): T {
  if (reply.ok) return reply.text() === "" ? (undefined as T) : reply.json<T>();
  // A write that was not acknowledged in time may have happened.
  throw new StarlaneError(reply.status === 504 ? "unknown" : "rejected", reply.json<Problem>());
}
