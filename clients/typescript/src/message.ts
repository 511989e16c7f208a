/** A message on its way to a point. Its body is one of `json`, `text` and `bytes`. */
export interface Call {
  /** `AddItem` or `Ext<AddItem>`, `GET` or `Http<Get>`. */
  method?: string;
  /** Of what; `/` without it. */
  path?: string;
  headers?: [string, string][];
  json?: unknown;
  text?: string;
  bytes?: Uint8Array;
  contentType?: string;
  /** How long the answer is waited for. */
  timeoutMs?: number;
  /** A point that this client serves, as whom it speaks. */
  from?: string;
  /** The message for whose sake it is asked: the same trace, and refused when it would come back to who waits for it. */
  within?: Incoming;
}

/** What answers the messages of a point; what is thrown is answered as a failure. */
export type Handler = (incoming: Incoming) => Promise<Reply | void> | Reply | void;

export interface Body {
  text?: string;
  base64?: string;
}

const decoder = new TextDecoder();

/** An answer. */
export class Reply {
  constructor(
    /** As HTTP's. */
    readonly status: number,
    readonly headers: [string, string][] = [],
    readonly body: Uint8Array | string = "",
  ) {}

  static text(text: string, status = 200): Reply {
    return new Reply(status, [["content-type", "text/plain; charset=utf-8"]], text);
  }

  static json(document: unknown, status = 200): Reply {
    return new Reply(status, [["content-type", "application/json"]], JSON.stringify(document));
  }

  /** Whether the status is 2xx. */
  get ok(): boolean {
    return this.status >= 200 && this.status < 300;
  }

  text(): string {
    return typeof this.body === "string" ? this.body : decoder.decode(this.body);
  }

  json<T = unknown>(): T {
    return JSON.parse(this.text()) as T;
  }
}

/** A message to a point that this client serves. */
export class Incoming {
  constructor(
    /** By which it is answered; absent when it wants no answer. */
    readonly id: number | undefined,
    readonly point: string,
    /** Who sent it. */
    readonly from: string,
    /** On whose authority. */
    readonly agent: string,
    /** `Ext<AddItem>`, `Http<Get>`. */
    readonly method: string,
    readonly path: string,
    readonly headers: [string, string][],
    readonly body: Uint8Array | string,
    /** The trace that it belongs to (W3C Trace Context). */
    readonly trace: string,
    /** Aborted when nobody waits for the answer any more. */
    readonly signal: AbortSignal,
  ) {}

  text(): string {
    return typeof this.body === "string" ? this.body : decoder.decode(this.body);
  }

  json<T = unknown>(): T {
    return JSON.parse(this.text()) as T;
  }
}

/** A body as a frame of text carries it. */
export function written(body: Uint8Array | string): Body {
  if (typeof body === "string") return body === "" ? {} : { text: body };
  let binary = "";
  for (const byte of body) binary += String.fromCharCode(byte);
  return body.length === 0 ? {} : { base64: btoa(binary) };
}

/** The body of a frame of text. */
export function read(body: Body): Uint8Array | string {
  if (body.base64 === undefined) return body.text ?? "";
  return Uint8Array.from(atob(body.base64), (char) => char.charCodeAt(0));
}

/** The headers and the body of a message. */
export function content(call: Call): { headers: [string, string][] } & Body {
  const headers = [...(call.headers ?? [])];
  let body: Uint8Array | string = call.bytes ?? call.text ?? "";
  let contentType = call.contentType ?? (call.text === undefined ? undefined : "text/plain; charset=utf-8");
  if (call.json !== undefined) {
    body = JSON.stringify(call.json);
    contentType ??= "application/json";
  } else if (call.bytes !== undefined) {
    contentType ??= "application/octet-stream";
  }
  if (contentType !== undefined) headers.push(["content-type", contentType]);
  return { headers, ...written(body) };
}
