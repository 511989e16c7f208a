/** What a node says of an error (RFC 9457). */
export interface Problem {
  /** The stable name: `E-NOT-FOUND`. */
  code: string;
  /** What is wrong this time. */
  detail: string;
  /** The resource that it is about. */
  point?: string;
  /** What to do next. */
  help?: string;
  /** Each thing that is wrong inside a document, by its JSON pointer. */
  errors?: { pointer: string; detail: string }[];
  /** After how many seconds it is worth trying again. */
  retryAfter?: number;
}

/**
 * How it ended: `rejected` when it surely was not done, `failed` when it was begun and failed, `unknown` when it may have been
 * done.
 */
export type Outcome = "rejected" | "failed" | "unknown";

/** Why something was not done, or may not have been. */
export class StarlaneError extends Error {
  constructor(
    readonly outcome: Outcome,
    readonly problem: Problem,
  ) {
    super(problem.detail);
    this.name = "StarlaneError";
  }

  /** The stable name of the error. */
  get code(): string {
    return this.problem.code;
  }

  static rejected(code: string, detail: string): StarlaneError {
    return new StarlaneError("rejected", { code, detail });
  }

  static lost(): StarlaneError {
    const detail = "the connection broke before the answer came";
    return new StarlaneError("unknown", { code: "E-UNREACHABLE", detail });
  }
}
