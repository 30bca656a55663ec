// The paths of a node. Pure.

/// The path of a document. An id that percent-encoding changes stands in the query: many proxies decode `%2F` in a path,
/// join slashes and take `..` away, and none of them does so in a query.
export function docPath(collection, id) {
  const [name, encoded] = [collection, id].map(encodeURIComponent);
  return encoded === id && id !== "_" ? `/v1/docs/${name}/${id}` : `/v1/docs/${name}/_?id=${encoded}`;
}

/// The node that serves the module at `address`, maybe below a prefix that a proxy has given it; without a slash at the end.
export const nodeOf = (address) => new URL("..", address).href.replace(/\/$/, "");
