/** What may stand in a property: text, a number, a truth value, or JSON. */
export type Value = string | number | boolean | null | Value[] | { [key: string]: Value };

/** A property as it stands in a resource; a locked one never changes. */
export interface Property {
  value: Value;
  locked?: boolean;
}

/** Properties by their keys, as they are set: `null` takes one away. */
export type Properties = { [key: string]: Value };

/** Where a resource is in its life. */
export interface Status {
  phase: "Unknown" | "Pending" | "Init" | "Ready" | "Paused" | "Panic" | "Fatal" | "Done";
  reason?: string;
}

/** What lives at a point, as it was at the revision `modified`. */
export interface Resource {
  point: string;
  kind: string;
  properties: { [key: string]: Property };
  status: Status;
  created: number;
  modified: number;
  version: number;
}

/** What happened to one resource, relative to the answer of the watched selector. */
export interface Change {
  change: "entered" | "updated" | "left";
  resource: Resource;
}

/** One step of a watch; `token` resumes after it, and is empty after `gone`. */
export type Step =
  | { event: "listed"; resources: Resource[]; revision: number; last: boolean; token: string }
  | { event: "changed"; revision: number; changes: Change[]; token: string }
  | { event: "counted"; revision: number; count: number; token: string }
  | { event: "ranked"; revision: number; resources: Resource[]; token: string }
  | { event: "bookmark"; revision: number; token: string }
  | { event: "gone"; oldest: number; token: string };

/** What one who subscribes hears. */
export type Heard =
  | { event: "event"; from: string; path: string; headers: [string, string][]; body: Uint8Array; text(): string }
  | { event: "gap"; missed: number }
  /** The connection broke and is there again: nobody knows what was published meanwhile. */
  | { event: "reconnected" };
