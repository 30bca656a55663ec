// What the page's address says: which collection and text are open, and how the page is shown.
const query = new URLSearchParams(location.search);

/// A word of the address as the page was opened; null if it is not there.
export const asked = (name) => query.get(name);

/// Whether the address has a word, with or without a value.
export const isAsked = (name) => query.has(name);

/// Says something in the address from now on, so that a reload and a bookmark bring it back; null takes it out.
export function say(name, value) {
  const address = new URL(location.href);
  if (value === null) address.searchParams.delete(name);
  else address.searchParams.set(name, value);
  // `?side` reads better than `?side=`, and means the same.
  history.replaceState(null, "", address.href.replace(/=(?=&|$)/g, ""));
}
