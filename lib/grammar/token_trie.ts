/**
 * The tokens of a vocabulary by their bytes. Nodes are numbered so that the nodes below one follow it
 * directly, up to its end.
 */
export class TokenTrie {
  readonly numNodes: number;
  /** [nodes] the byte that leads to the node; node 0 is the root. */
  readonly bytes: Uint8Array;
  /** [nodes] bytes from the root. */
  readonly depths: Uint16Array;
  /** [nodes] one past the last node below. */
  readonly ends: Int32Array;
  /** [nodes + 1] where the node's tokens begin in `tokens`. */
  readonly tokenBegins: Int32Array;
  /** Token ids; some vocabularies have several for the same bytes. */
  readonly tokens: Int32Array;
  /** [nodes · 8] the bytes that lead to the nodes below, as 256 bits. */
  readonly bytesBelow: Int32Array;
  /** [nodes · 8] those that lead to the nodes directly below. */
  readonly bytesAfter: Int32Array;
  /** [nodes] most bytes from the node to one below. */
  readonly heights: Uint16Array;
  /** Bytes of the longest token. */
  readonly mostBytes: number;

  /** @param tokens bytes of each token; undefined or none: the token is no text. */
  constructor(tokens: readonly (Uint8Array | undefined)[]) {
    // As strings of one character a byte, whose order is that of the bytes.
    const sorted = tokens
      .map((bytes, id) => ({ id, text: Buffer.from(bytes ?? []).toString("latin1") }))
      .filter(({ text }) => text !== "")
      .sort((a, b) => (a.text < b.text ? -1 : a.text > b.text ? 1 : a.id - b.id));
    const most = 1 + sorted.reduce((sum, { text }) => sum + text.length, 0);
    const bytes = new Uint8Array(most);
    const depths = new Uint16Array(most);
    const ends = new Int32Array(most);
    const tokenBegins = new Int32Array(most + 1);
    let numNodes = 1;
    let previous = "";
    /** The nodes that lead to the previous token. */
    const path = [0];
    sorted.forEach(({ text }, i) => {
      let common = 0;
      while (common < previous.length && text[common] === previous[common]) common++;
      for (const node of path.splice(common + 1)) ends[node] = numNodes;
      for (let depth = common + 1; depth <= text.length; depth++) {
        bytes[numNodes] = text.charCodeAt(depth - 1);
        depths[numNodes] = depth;
        // Those above the token's node have none of their own.
        tokenBegins[numNodes] = i;
        path.push(numNodes++);
      }
      previous = text;
    });
    for (const node of path) ends[node] = numNodes;
    tokenBegins[numNodes] = sorted.length;
    this.numNodes = numNodes;
    this.bytes = bytes.slice(0, numNodes);
    this.depths = depths.slice(0, numNodes);
    this.ends = ends.slice(0, numNodes);
    this.tokenBegins = tokenBegins.slice(0, numNodes + 1);
    this.bytesBelow = new Int32Array(8 * numNodes);
    this.bytesAfter = new Int32Array(8 * numNodes);
    this.heights = new Uint16Array(numNodes);
    this.#lookBelow();
    this.tokens = Int32Array.from(sorted, ({ id }) => id);
    this.mostBytes = this.heights[0]!;
  }

  /** From the last node on: what is below a node is known before the node itself is looked at. */
  #lookBelow(): void {
    const parents = new Int32Array(this.numNodes);
    const path = [0];
    for (let node = 1; node < this.numNodes; node++) {
      parents[node] = path[this.depths[node]! - 1]!;
      path[this.depths[node]!] = node;
    }
    for (let node = this.numNodes - 1; node > 0; node--) {
      const byte = this.bytes[node]!;
      const parent = parents[node]!;
      this.heights[parent] = Math.max(this.heights[parent]!, this.heights[node]! + 1);
      this.bytesAfter[8 * parent + (byte >> 5)]! |= 1 << (byte & 31);
      // The node below has been looked at: all that is below it is known.
      for (let i = 0; i < 8; i++)
        this.bytesBelow[8 * parent + i]! |= this.bytesBelow[8 * node + i]!;
      this.bytesBelow[8 * parent + (byte >> 5)]! |= 1 << (byte & 31);
    }
  }
}
