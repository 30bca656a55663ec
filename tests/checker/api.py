"""Requests to a node, by what docs/API.md says."""

import http.client
import json
import urllib.parse


class Answer:
    """Status, headers and body of a response; status 0 stands for none, and then nothing is known of what was asked for."""

    def __init__(self, status, headers=None, body=b"", error=None):
        self.status, self.headers, self.body, self.error = status, headers or {}, body, error

    @property
    def ok(self):
        return 200 <= self.status < 300

    def json(self):
        """The body; an empty object where it is no JSON object."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def problem(self):
        return str(self.json().get("type", "")).removeprefix("urn:lamplight:problem:") if self.status >= 400 else ""

    @property
    def session(self):
        return self.headers.get("lamplight-session")


class Connection:
    """One kept connection to a node; it is opened again after an error."""

    def __init__(self, port, timeout):
        self.port, self.timeout, self.http = port, timeout, None

    def ask(self, method, path, body=None, headers=None):
        fresh = self.http is None
        if fresh:
            self.http = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
        try:
            self.http.request(method, path, body, headers or {})
            response = self.http.getresponse()
            data = response.read()
            if response.will_close:
                self.close()
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, data)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            return Answer(0, error=repr(error))

    def close(self):
        if self.http is not None:
            self.http.close()
            self.http = None


def ask(port, method, path, body=None, timeout=5):
    """A request on a connection of its own; the body is a JSON value."""
    connection = Connection(port, timeout)
    try:
        if body is None:
            return connection.ask(method, path)
        return connection.ask(method, path, json.dumps(body), {"content-type": "application/json"})
    finally:
        connection.close()


def query(**values):
    given = {name: str(value) for name, value in values.items() if value is not None}
    return "?" + urllib.parse.urlencode(given) if given else ""


class Unread(Exception):
    """A listing that a node did not give."""


def pages(port, path, field, size=1000, **values):
    """All entries of a listing whose pages go on with a `next`."""
    connection, cursor_name = Connection(port, 20), {"collections": "after", "docs": "after", "ops": "since"}[field]
    try:
        cursor = None
        while True:
            answer = connection.ask("GET", path + query(**values, limit=size, **{cursor_name: cursor}))
            if answer.status != 200:
                raise Unread(f"GET {path} at port {port}: {answer.status} {answer.problem} {answer.error or ''}")
            page = answer.json()
            yield from page[field]
            cursor = page["next"]
            if cursor is None:
                return
    finally:
        connection.close()
