// What goes wrong, as one kind of error: a node's problem (RFC 9457), or one that the client found by itself.

/// An error with the node's word. `slug` is what programs compare, the message says what to do next.
export class LamplightError extends Error {
  /// `status` is that of HTTP, or 0 if no node was asked. `uncertain` says that the write was also sent to another node
  /// before, which never answered: it may have taken it.
  constructor(problem, uncertain = false) {
    super(problem.detail ?? problem.title ?? "the node refused without saying why");
    this.name = "LamplightError";
    this.problem = problem;
    this.slug = String(problem.type ?? "unknown").replace("urn:lamplight:problem:", "");
    this.status = problem.status ?? 0;
    this.uncertain = uncertain;
  }

  /// Of the client itself.
  static local(slug, detail) {
    return new LamplightError({ type: slug, status: 0, detail });
  }

  /// Whether the same request can succeed later, here or on another node.
  get passes() {
    return this.status >= 500 || this.status === 429;
  }

  /// Whether this node will answer nothing that concerns documents, so that another must be asked.
  get isOfTheNode() {
    return this.slug === "not-ready" || this.slug === "retired";
  }
}
