interface Node<Value> {
  /** The tokens that lead to it from the node above. */
  edge: Int32Array;
  value: Value | undefined;
  /** By the first token of their edges. */
  readonly children: Map<number, Node<Value>>;
}

/** The longest beginning of a text that has a value, and that value. */
export interface PrefixEntry<Value> {
  readonly length: number;
  readonly value: Value;
}

/** Values of token sequences, to be found by the texts that begin with them: a radix tree. */
export class PrefixTree<Value> {
  readonly #root = newNode<Value>(new Int32Array());
  #size = 0;

  /** Values set, and not pruned. */
  get size(): number {
    return this.#size;
  }

  /**
   * How many of the first tokens some known text begins with, too, and the longest beginning of
   * `tokens` with a value that `accepts` says is still one.
   */
  find(
    tokens: Int32Array,
    accepts: (value: Value) => boolean,
  ): { readonly common: number; readonly longest: PrefixEntry<Value> | undefined } {
    let node = this.#root;
    let common = 0;
    let longest: PrefixEntry<Value> | undefined;
    for (;;) {
      const { value } = node;
      if (value !== undefined && accepts(value)) longest = { length: common, value };
      const child = node.children.get(tokens[common]!);
      if (child === undefined) return { common, longest };
      const same = commonLength(child.edge, tokens.subarray(common));
      common += same;
      if (same < child.edge.length) return { common, longest };
      node = child;
    }
  }

  /** Sets the value of `tokens`, at least one; their memory is not kept. */
  set(tokens: Int32Array, value: Value): void {
    let node = this.#root;
    for (let length = 0; length < tokens.length;) {
      const rest = tokens.subarray(length);
      let child = node.children.get(rest[0]!);
      if (child === undefined) {
        child = newNode(rest.slice());
        node.children.set(rest[0]!, child);
      }
      const same = commonLength(child.edge, rest);
      node = same < child.edge.length ? split(node, child, same) : child;
      length += same;
    }
    if (node.value === undefined) this.#size += 1;
    node.value = value;
  }

  /** Forgets the values that `accepts` does not take, and the texts that only led to such. */
  prune(accepts: (value: Value) => boolean): void {
    this.#size = prune(this.#root, accepts);
  }

  /** All values. */
  values(): Value[] {
    return valuesOf(this.#root);
  }
}

function newNode<Value>(edge: Int32Array): Node<Value> {
  return { edge, value: undefined, children: new Map() };
}

function commonLength(a: Int32Array, b: Int32Array): number {
  const most = Math.min(a.length, b.length);
  let length = 0;
  while (length < most && a[length] === b[length]) length++;
  return length;
}

/** Puts a node between the two, after so many tokens of the edge. */
function split<Value>(parent: Node<Value>, child: Node<Value>, length: number): Node<Value> {
  const middle = newNode<Value>(child.edge.slice(0, length));
  child.edge = child.edge.slice(length);
  middle.children.set(child.edge[0]!, child);
  parent.children.set(middle.edge[0]!, middle);
  return middle;
}

/** Returns how many values are left. */
function prune<Value>(node: Node<Value>, accepts: (value: Value) => boolean): number {
  if (node.value !== undefined && !accepts(node.value)) node.value = undefined;
  let size = node.value === undefined ? 0 : 1;
  for (const [token, child] of node.children) {
    const below = prune(child, accepts);
    if (below === 0) node.children.delete(token);
    size += below;
  }
  return size;
}

function valuesOf<Value>(node: Node<Value>): Value[] {
  const below = [...node.children.values()].flatMap(valuesOf);
  return node.value === undefined ? below : [node.value, ...below];
}
