const CONNECTING = 0;
/// A node that answers at all opens a socket in this time.
const OPENS_WITHIN_MS = 10_000;

/// Closes a WebSocket of which nothing more is to be heard. One that is not open yet is closed once it is: browsers
/// report one that is closed before that as an error in the console, which it is not.
export function abandon(socket) {
  const isConnecting = socket.readyState === CONNECTING;
  const patience = isConnecting ? setTimeout(() => socket.close(), OPENS_WITHIN_MS) : null;
  patience?.unref?.();
  socket.onmessage = null;
  socket.onopen = () => socket.close();
  // The package ws throws an error that nobody takes.
  socket.onclose = socket.onerror = () => clearTimeout(patience);
  if (!isConnecting) socket.close();
}
