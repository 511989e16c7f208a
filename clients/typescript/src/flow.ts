import type { StarlaneError } from "./error.js";
import type { Heard, Step } from "./resource.js";

/** How many steps come before they are taken. */
export const AHEAD = 256;

/** What comes one after the other, and is taken as fast as whoever reads it likes. */
export class Flow<T> implements AsyncIterable<T> {
  private readonly ready: T[] = [];
  private readonly waiting: ((next: IteratorResult<T>) => void)[] = [];
  private failure: StarlaneError | undefined;
  private over = false;
  /** What was granted and did not come so far. */
  granted = 0;

  constructor(
    /** Asks for as many more. */
    private readonly grant: (more: number) => void,
    private readonly onClose: () => void,
  ) {}

  /** How many more there is room for. */
  room(): number {
    return Math.max(0, AHEAD - this.ready.length - this.granted);
  }

  /** Something came. */
  put(item: T): void {
    const next = this.waiting.shift();
    if (next) next({ value: item, done: false });
    else this.ready.push(item);
  }

  /** It is at its end. */
  end(failure?: StarlaneError): void {
    if (this.over) return;
    this.over = true;
    this.failure = failure;
    for (const next of this.waiting.splice(0)) next({ value: undefined, done: true });
  }

  /** Ends it from this side. */
  close(): void {
    this.ready.length = 0;
    this.end();
    this.onClose();
  }

  async *[Symbol.asyncIterator](): AsyncIterator<T> {
    try {
      for (;;) {
        const item = this.ready.shift();
        const next = item !== undefined ? { value: item, done: false } : await this.wait();
        if (next.done) {
          if (this.failure) throw this.failure;
          return;
        }
        const more = this.room();
        if (more >= AHEAD / 2) this.grant(more);
        yield next.value as T;
      }
    } finally {
      this.close();
    }
  }

  private wait(): Promise<IteratorResult<T>> {
    if (this.over) return Promise.resolve({ value: undefined, done: true });
    return new Promise((resolve) => this.waiting.push(resolve));
  }
}

/** The answer of a selector and its changes: `for await (const step of watch)`. */
export class Watch extends Flow<Step> {
  /** What resumes after the last step that came, also in another process. */
  token: string | undefined;
}

/** What is published to a topic: `for await (const heard of topic)`. */
export class Topic extends Flow<Heard> {}
