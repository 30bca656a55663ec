// How a client shows its token: in a header, or where a browser sets none, among the subprotocols of a WebSocket.

/// Headers for a request; none without a token.
export const authorization = (token) => (token ? { Authorization: `Bearer ${token}` } : {});

/// The subprotocols that a WebSocket is opened with; none without a token. The node answers with the first.
export function subprotocols(token) {
  if (!token) return [];
  const encoded = btoa(token).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return ["lamplight.v1", `bearer.${encoded}`];
}

/// A WebSocket class that shows what `token()` gives when it is opened.
export const showing = (token, WebSocket) => class extends WebSocket {
  constructor(url) {
    super(url, subprotocols(token()));
  }
};
