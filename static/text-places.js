// Where the visible units of a text are: from an index to an item and back, without walking the whole list.
// The items, which their `left` and `right` link, are counted in blocks of neighbours; a block knows how many items and
// visible units it has. So a search goes over some blocks and then over the items of one.

/// A fuller block is halved. The square root of the items in a long text (some 20,000) is about this.
const BLOCK_ITEMS_MAX = 128;

class Block {
  before = null;
  after = null;
  items = 0;
  visible = 0;

  constructor(first) {
    this.first = first;
  }
}

export class Places {
  #first = null;
  /// How many visible units there are.
  length = 0;

  /// The item that holds the unit before `index`, and how many of its units lie before `index`. Null for index 0.
  before(index) {
    if (index === 0) return null;
    let block = this.#first;
    while (index > block.visible) {
      index -= block.visible;
      block = block.after;
    }
    let item = block.first;
    while (index > item.visible) {
      index -= item.visible;
      item = item.right;
    }
    return { item, offset: index };
  }

  /// How many visible units lie before an item, and how many items.
  of(item) {
    let index = 0;
    let order = 0;
    for (let one = item.block.first; one !== item; one = one.right) {
      index += one.visible;
      order += 1;
    }
    for (let block = item.block.before; block !== null; block = block.before) {
      index += block.visible;
      order += block.items;
    }
    return { index, order };
  }

  /// Counts an item that has just been linked.
  add(item) {
    const block = item.left?.block ?? item.right?.block ?? (this.#first = new Block(item));
    if (item.left === null) block.first = item;
    item.block = block;
    block.items += 1;
    this.#count(block, item.visible);
    if (block.items > BLOCK_ITEMS_MAX) halve(block);
  }

  /// An item has been cut in two: `rest` is now to its right.
  cut(item, rest) {
    // Its units are counted already.
    this.#count(item.block, -rest.visible);
    this.add(rest);
  }

  /// An item is about to be deleted.
  hide(item) {
    this.#count(item.block, -item.visible);
  }

  /// The item to the left has taken in `right`, which is still linked.
  join(item, right) {
    const { block } = right;
    this.#count(item.block, right.visible);
    this.#count(block, -right.visible);
    block.items -= 1;
    if (block.first !== right) return;
    if (block.items > 0) {
      block.first = right.right;
      return;
    }
    // The item to its left is in the block before, so that there is one.
    block.before.after = block.after;
    if (block.after !== null) block.after.before = block.before;
  }

  #count(block, visible) {
    block.visible += visible;
    this.length += visible;
  }
}

function halve(block) {
  let item = block.first;
  for (let n = 0; n < BLOCK_ITEMS_MAX / 2; n++) item = item.right;
  const rest = new Block(item);
  rest.items = block.items - BLOCK_ITEMS_MAX / 2;
  for (let n = 0; n < rest.items; n++, item = item.right) {
    item.block = rest;
    rest.visible += item.visible;
  }
  block.items -= rest.items;
  block.visible -= rest.visible;
  rest.before = block;
  rest.after = block.after;
  if (rest.after !== null) rest.after.before = rest;
  block.after = rest;
}
