// Paths and tags as they reach a node, and come back, through proxies. Pure.

/// The path of a document, with a query. An id that percent-encoding changes stands in the query: many proxies decode `%2F`
/// in a path, join slashes and take `..` away, and none of them does so in a query.
export const docPath = (collection, id, query = {}) => pathIn("/v1/docs", collection, id, query);

/// The path at which editors of a text connect.
export const textPath = (collection, id) => pathIn("/v1/yjs", collection, id, {});

function pathIn(root, collection, id, query) {
  const name = encodeURIComponent(collection);
  const isPlain = encodeURIComponent(id) === id && id !== "_";
  const parameters = Object.entries(isPlain ? query : { id, ...query }).map(([key, value]) => `${key}=${encodeURIComponent(value)}`);
  return `${root}/${name}/${isPlain ? id : "_"}${parameters.length > 0 ? "?" : ""}${parameters.join("&")}`;
}

/// The version in an entity tag. A proxy that compresses marks the tag as weak, or adds the coding to it.
export const versionIn = (tag) => tag?.replace(/^W\//, "").replace(/^"|"$/g, "").replace(/--?(gzip|br|zstd|deflate)$/, "") ?? null;

/// The node that serves the module at `address`, maybe below a prefix that a proxy has given it; without a slash at the end.
export const nodeOf = (address) => new URL("..", address).href.replace(/\/$/, "");
