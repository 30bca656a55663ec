// The token that this node asks for, where it asks for one: kept for this tab, and sent with every request.
import * as bearer from "./bearer.js";
import { h } from "./dom.js";

const PLACE = "lamplight-token";
const kept = () => sessionStorage.getItem(PLACE);

/// Headers for a request.
export const authorization = () => bearer.authorization(kept());

/// A WebSocket that shows the token.
export const TokenSocket = bearer.showing(kept, WebSocket);

/// Asks for a token, saying why, and begins anew with it. Once: other requests that are refused meanwhile say the same.
export function askForToken(why) {
  if (document.getElementById("token")) return;
  const field = h("input", { type: "password", "aria-label": "Token", autocomplete: "off", required: true });
  const begin = (event) => {
    event.preventDefault();
    // What stands in no header was mistyped.
    if (!/^[!-~]+$/.test(field.value.trim())) return field.select();
    sessionStorage.setItem(PLACE, field.value.trim());
    location.reload();
  };
  const form = h("form", {}, h("p", {}, kept() ? why : "This node asks for a token."), field, " ", h("button", { class: "primary" }, "Go on"));
  form.addEventListener("submit", begin);
  const dialog = h("dialog", { id: "token" }, form);
  document.body.append(dialog);
  dialog.showModal();
}
