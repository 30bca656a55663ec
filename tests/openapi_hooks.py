"""What the description cannot say, for the requests that schemathesis makes: strings that only a node can give, and which
parameters do not go together. tests/openapi.py loads it.

Only requests that are meant to be right are changed; those that are meant to be wrong go out as they are, but that nothing
dials another machine or waits for long.
"""

import json
import os
import string

import schemathesis
from hypothesis import strategies as st

# What a node has told: see `Told` in tests/openapi.py.
TOLD = json.loads(os.environ["LAMPLIGHT_TOLD"])
# Nobody listens on the port of discard.
NOWHERE = "http://127.0.0.1:9"
SHORT = "20ms"
WRITES = {"PUT", "PATCH", "POST"}
LINES = ("application/x-ndjson", "application/ndjson", "application/jsonl")

uuids = st.uuids().map(str)
schemathesis.openapi.format("lamplight-duration", st.sampled_from(["0ms", "1ms", SHORT, "0s"]))
schemathesis.openapi.format("lamplight-wait", st.sampled_from(["final", "1"]))
schemathesis.openapi.format("lamplight-time", st.sampled_from(["0", "1", TOLD["time"]]))
schemathesis.openapi.format("lamplight-stamp", st.builds("{}@{}".format, st.integers(0, 2**53 - 1), uuids))
schemathesis.openapi.format("lamplight-session", st.just(TOLD["session"]))
schemathesis.openapi.format("lamplight-cursor", st.just(TOLD["cursor"]))
schemathesis.openapi.format("lamplight-page", st.just(TOLD["page"]))
schemathesis.openapi.format("lamplight-node-url", st.just(NOWHERE))
schemathesis.openapi.format("lamplight-key", uuids)
schemathesis.openapi.format("lamplight-sort", st.sampled_from(["-at", "done,-at", "id", "-id,rows.0.at"]))
schemathesis.openapi.format("lamplight-query-id", st.just("a/b"))
schemathesis.openapi.format("lamplight-condition", st.sampled_from(["*", f'"{TOLD["version"]}"', f'"{"0" * 32}"', f'W/"{TOLD["version"]}", "{"0" * 32}"']))
plain = st.text(string.ascii_letters + string.digits + " -_.~%/?#+&=:@é€𝄞", min_size=1, max_size=60)
schemathesis.openapi.format("lamplight-id", plain.filter(lambda id: id not in (".", "..")))


@schemathesis.serializer(*LINES)
def lines(context, value):
    """A bulk load is text, and sent as it is."""
    return {"data": value.encode() if isinstance(value, str) else json.dumps(value).encode()}


@schemathesis.hook
def before_call(context, case, kwargs):
    if isinstance(case.body, dict) and str(case.body.get("url", "")).startswith("http"):
        case.body["url"] = NOWHERE
    query = case.query if isinstance(case.query, dict) else {}
    if query.get("feed") == "longpoll" and case.path == "/v1/changes":
        query["timeout"] = query["timeout"] if is_short(query.get("timeout")) else SHORT
    if case.meta is not None and case.meta.generation.mode.is_positive:
        agree(case, query)


def is_short(timeout):
    """Whether it is no time at all, or a short one: it goes out as it is."""
    text = str(timeout or "30s")
    return not text.rstrip("ms").isdigit() or text.endswith("ms") and len(text) <= 4


def mend_moves(value):
    """A value cannot be moved into itself."""
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        mend_moves(inner)
    if isinstance(value, dict) and value.get("op") == "move" and f"{value.get('path')}".startswith(f"{value.get('from')}/"):
        value["path"] = value["from"]


def agree(case, query):
    """Leaves out what does not go together with something else."""
    headers = case.headers if case.headers is not None else {}
    mend_moves(case.body)
    # It stands for an id in the path, which is then `_`.
    query.pop("id", None)
    if "Idempotency-Key" in headers and headers.get("If-None-Match", "*") != "*":
        del headers["If-None-Match"]
    if "timeout" in query and not {"wait", "feed"} & query.keys():
        del query["timeout"]
    if "wait" in query:
        # A pattern says any number; there is one member.
        query["wait"] = query["wait"] if query["wait"] == "final" else "1"
    if "timeout" in query and not is_short(query["timeout"]):
        query["timeout"] = SHORT
    for name in ("at", "from", "to"):
        if name in query and int(query[name]) > int(TOLD["time"]):
            query[name] = TOLD["time"]
    if "at" in query:
        query.pop("view", None)
    if "Lamplight-Session" in headers:
        headers["Lamplight-Session"] = TOLD["session"]
    if case.path == "/v1/docs/{collection}" and "after" in query:
        case.path_parameters["collection"] = TOLD["collection"]
        for name in ("filter", "sort", "view", "at"):
            query.pop(name, None)
        query["after"] = TOLD["page"]
    if case.path == "/v1/collections" and "after" in query:
        query["after"] = TOLD["collections_page"]
    if case.path == "/v1/changes":
        told = TOLD["final_cursor" if query.get("view") == "final" else "cursor"]
        if "since" in query:
            query["since"] = told
        if "Last-Event-ID" in headers:
            headers["Last-Event-ID"] = told
        accepts = next((value for name, value in headers.items() if name.lower() == "accept"), "")
        if "text/event-stream" in str(accepts):
            for name in ("limit", "feed", "timeout"):
                query.pop(name, None)
    if case.method in WRITES and case.media_type in ("text/plain", *LINES):
        headers.pop("Idempotency-Key", None)
    if isinstance(case.body, dict) and "key" in case.body and case.path == "/v1/tx":
        headers.pop("Idempotency-Key", None)
    if case.media_type in LINES:
        for name in ("wait", "timeout"):
            query.pop(name, None)
