#!/usr/bin/env python3
"""The page in a real browser: three real nodes, Chromium, and a user's clicks and keys.

Controls are found as a screen reader finds them, by role and name, in Chromium's accessibility tree. Nothing sleeps for
a fixed time: each step waits for a condition of the page, with a bounded patience. After every test the browser's own
record must be clean: no console error, no failed request, and no request to any address but the nodes'.

    tests/browser.py [--program PATH] [--picture] [WORD...]

Runs the tests whose names hold one of the words, or all. `--picture` makes docs/page.png instead, the picture of the
README. Screenshots go to target/screenshots/.
"""

import argparse
import base64
import contextlib
import http.client
import inspect
import json
import os
import pathlib
import queue
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.parse

import websocket

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCREENSHOTS = ROOT / "target" / "screenshots"
PATIENCE_S = 60
# Between two looks at a condition; the browser's events are read meanwhile.
LOOK_EVERY_S = 0.03
# Of a page on which a test failed; the log's end is of no use.
LINES_SHOWN_MAX = 60


def until(condition, sentence, pause=time.sleep, patience_s=PATIENCE_S):
    """Waits for a condition and returns its value; `sentence` says what was awaited in vain."""
    end = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(Gone):
            if value := condition():
                return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {patience_s} s: {sentence}")
        pause(LOOK_EVERY_S)


class Gone(Exception):
    """The page is just loading, or what was to be used has just been drawn anew: look again."""


# ---- Nodes ----


class Process:
    """A child process that ends with its `with` block, by its id, and its children with it."""

    def __init__(self, command):
        self.command = command
        self.output = tempfile.TemporaryFile()

    def __enter__(self):
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=self.output, stderr=subprocess.STDOUT, start_new_session=True
        )
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        # Its own group; helpers that outlived it go too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def must_run(self):
        if self.process.poll() is not None:
            self.output.seek(0)
            raise RuntimeError(f"{self.command[0]} ended:\n{self.output.read().decode()[-2000:]}")


class Node:
    """A node by its address, and requests to it."""

    def __init__(self, name, port):
        self.name = name
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def call(self, method, path, body=None, type="application/json"):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            text = None if body is None else body.encode() if type == "text/plain" else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": type} if text else {})
            answer = connection.getresponse()
            content = answer.read().decode()
            if not answer.headers.get("Content-Type", "").startswith("text/plain"):
                content = json.loads(content or "null")
        assert answer.status < 400, f"{method} {path} on {self.name}: {answer.status} {content}"
        return content

    def put(self, collection, id, value):
        return self.call("PUT", doc_path(collection, id), value)

    def put_text(self, collection, id, text):
        return self.call("PUT", doc_path(collection, id), text, "text/plain")

    def get(self, collection, id):
        return self.call("GET", doc_path(collection, id))

    def delete(self, collection, id):
        return self.call("DELETE", doc_path(collection, id))

    def cut(self, cut):
        self.call("POST", "/v1/pool/links", {"cut": cut})

    def is_linked_to(self, count):
        try:
            members = self.call("GET", "/v1/pool")["members"]
        except (OSError, AssertionError):
            return False
        return sum(member["link"] == "linked" for member in members) == count


def doc_path(collection, id):
    return f"/v1/docs/{collection}/{urllib.parse.quote(id, safe='')}"


def free_ports(count):
    """The first of so many free ports in a row."""
    while True:
        first = random.randrange(20_000, 32_000)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


@contextlib.contextmanager
def demo(program):
    """`lamplight demo`: three linked nodes in one process."""
    first = free_ports(3)
    with Process([program, "demo", "--port", str(first)]) as process:
        nodes = [Node(name, first + place) for place, name in enumerate(("ada", "ben", "cleo"))]
        for node in nodes:
            until(lambda: process.must_run() or node.is_linked_to(2), f"{node.name} links to both others")
        yield nodes


def serve(program, node, join=None, *more):
    command = [program, "serve", "--memory", "--listen", f"127.0.0.1:{node.port}", "--name", node.name, *more]
    return Process(command + (["--join", join.url] if join else []))


# ---- The browser ----


class Browser:
    """Chromium over its DevTools protocol: one WebSocket, one session a tab."""

    def __init__(self, stack, origins):
        self.origins = origins
        self.answers = {}
        self.contexts = {}
        self.urls = {}
        self.asked = []
        self.troubles = []
        self.serial = 0
        profile = pathlib.Path(tempfile.mkdtemp(prefix="lamplight-browser-"))
        stack.callback(shutil.rmtree, profile, ignore_errors=True)
        flags = "--headless=new --no-sandbox --disable-gpu --disable-background-networking --disable-dev-shm-usage \
                 --no-first-run --hide-scrollbars --remote-debugging-port=0"
        command = ["chromium", *flags.split(), f"--user-data-dir={profile}", "about:blank"]
        process = stack.enter_context(Process(command))
        place = profile / "DevToolsActivePort"
        # The file holds the port and, once whole, a second line with the path.
        lines = until(
            lambda: process.must_run() or place.exists() and (words := place.read_text().split())[1:] and words,
            "Chromium tells its port",
            patience_s=60,
        )
        self.socket = websocket.create_connection(f"ws://127.0.0.1:{lines[0]}{lines[1]}", suppress_origin=True)
        stack.callback(self.socket.close)
        self.messages = queue.SimpleQueue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        with contextlib.suppress(websocket.WebSocketException, OSError):
            while text := self.socket.recv():
                self.messages.put(json.loads(text))
        self.messages.put(None)

    def send(self, method, session=None, **params):
        self.serial += 1
        serial = self.serial
        message = {"id": serial, "method": method, "params": params}
        self.socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        end = time.monotonic() + PATIENCE_S
        while serial not in self.answers:
            assert time.monotonic() < end, f"Chromium does not answer {method}"
            self.pump(1)
        answer = self.answers.pop(serial)
        if "error" in answer:
            raise Gone(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def pump(self, seconds):
        """Takes the messages that come within so many seconds, at least one if there is one."""
        end = time.monotonic() + seconds
        with contextlib.suppress(queue.Empty):
            while True:
                message = self.messages.get(timeout=max(0, end - time.monotonic()))
                if message is None:
                    raise RuntimeError("Chromium closed its WebSocket")
                if "id" in message:
                    self.answers[message["id"]] = message
                    return
                self.on_event(message["method"], message["params"], message.get("sessionId"))

    def on_event(self, method, params, session):
        match method:
            case "Runtime.executionContextCreated":
                context = params["context"]
                if context["auxData"]["isDefault"]:
                    self.contexts[context["auxData"]["frameId"]] = (session, context["id"])
            case "Runtime.executionContextDestroyed":
                self.forget(lambda place: place == (session, params["executionContextId"]))
            case "Runtime.executionContextsCleared":
                self.forget(lambda place: place[0] == session)
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.troubles.append(details.get("exception", {}).get("description") or details["text"])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.troubles.append(f"console: {[argument.get('value') for argument in params['args']]}")
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.troubles.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                self.on_request(params["requestId"], params["request"]["url"])
            case "Network.webSocketCreated":
                self.on_request(params["requestId"], params["url"])
            case "Network.responseReceived" if params["response"]["status"] >= 400:
                self.troubles.append(f"{params['response']['status']} {params['response']['url']}")
            # A request that is under way when its tab closes counts as cancelled, not as failed.
            case "Network.loadingFailed" if not params.get("canceled"):
                self.troubles.append(f"{params['errorText']} {self.urls.get(params['requestId'])}")

    def on_request(self, id, url):
        self.urls[id] = url
        self.asked.append(url)
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "data" and f"{parts.scheme.replace('ws', 'http')}://{parts.netloc}" not in self.origins:
            self.troubles.append(f"a request to a stranger: {url}")

    def forget(self, gone):
        self.contexts = {frame: place for frame, place in self.contexts.items() if not gone(place)}


class Page:
    """The page of a node as its user sees it: a tab, or a frame in one."""

    def __init__(self, browser, frame, session):
        self.browser = browser
        self.frame = frame
        self.session = session

    @classmethod
    def open(cls, browser, url, width, height, dark):
        # A window of its own is visible all the time, as the page is that a user looks at.
        target = browser.send("Target.createTarget", url="about:blank", newWindow=True)["targetId"]
        session = browser.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = cls(browser, target, session)
        for domain in ("Page", "Runtime", "Log", "Network", "DOM", "Accessibility"):
            page.send(f"{domain}.enable")
        page.send("Emulation.setFocusEmulationEnabled", enabled=True)
        page.size(width, height)
        page.send("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ])
        page.send("Page.navigate", url=url)
        return page

    def frames(self):
        """The frames in this tab, by the title of each."""
        def read():
            children = self.send("Page.getFrameTree")["frameTree"].get("childFrames", [])
            frames = {}
            for child in children:
                frame = child["frame"]["id"]
                owner = self.send("DOM.getFrameOwner", frameId=frame)["backendNodeId"]
                part = self.send("Accessibility.getPartialAXTree", backendNodeId=owner, fetchRelatives=False)
                frames[part["nodes"][0]["name"]["value"]] = Page(self.browser, frame, self.session)
            return frames
        return self.until(lambda: len(frames := read()) == 3 and frames, "three frames are there")

    def close(self):
        with contextlib.suppress(Gone):
            self.browser.send("Target.closeTarget", targetId=self.frame)

    def send(self, method, **params):
        return self.browser.send(method, self.session, **params)

    def size(self, width, height):
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def screenshot(self, place):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    # What the page shows.

    def js(self, expression, by_value=True):
        if self.frame not in self.browser.contexts:
            raise Gone("the page is loading")
        context = self.browser.contexts[self.frame][1]
        answer = self.send(
            "Runtime.evaluate", expression=expression, contextId=context, returnByValue=by_value, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value") if by_value else answer["result"]["objectId"]

    def text(self, selector="body"):
        """What a part of the page reads, without the breaks of its lines; empty if it is not there."""
        return " ".join((self.js(f"document.querySelector({json.dumps(selector)})?.innerText") or "").split())

    def rows(self):
        """The documents shown, by their ids; an open editor counts as its text."""
        rows = self.js(
            "[...document.querySelectorAll('#rows tr[data-id]')].map((row) => "
            "[row.dataset.id, row.querySelector('.value > code')?.textContent, row.querySelector('textarea')?.value])"
        )
        return {id: json.loads(shown) if shown else typed for id, shown, typed in rows}

    def members(self):
        """The cells of the members' table, by member."""
        return dict(self.js(
            "[...document.querySelectorAll('#members tbody tr')].map((row) => [row.querySelector('.name').textContent, "
            "[...row.querySelectorAll('td')].map((cell) => cell.innerText.trim())])"
        ))

    def log(self):
        """The operations shown, from the top: time, writer's name, what, verdict."""
        return self.js(
            "[...document.querySelectorAll('#ops li')].map((op) => [op.querySelector('.time').textContent.slice(0, -1), "
            "op.querySelector('.when .name').textContent, op.querySelector('.what').innerText, "
            "op.querySelector('.verdict').innerText])"
        )

    def until(self, condition, sentence):
        return until(condition, sentence, self.browser.pump)

    def until_rows(self, wanted):
        try:
            self.until(lambda: self.rows() == wanted, f"the rows are {wanted}")
        except AssertionError as error:
            raise AssertionError(f"{error}, but {self.rows()}") from None

    def until_text(self, selector, words):
        self.until(lambda: words in self.text(selector), f"{selector} reads “{words}”")

    def written(self):
        """What the field of the editor shows."""
        return self.js("document.querySelector('#text-field').value")

    def until_written(self, wanted):
        try:
            self.until(lambda: self.written() == wanted, f"the text is {wanted!r}")
        except AssertionError as error:
            raise AssertionError(f"{error}, but {self.written()!r}") from None

    def until_saved(self):
        # What was typed just now is shown as unsaved in the next frame.
        self.js("new Promise((tell) => requestAnimationFrame(() => requestAnimationFrame(tell)))")
        self.until_text(".editor-state", "Connected, all saved")

    def write(self, id, text, at=None):
        """Types into the open text, at its end or at a place."""
        self.click("textbox", f"Text of {id}")
        self.caret(len(self.written()) if at is None else at)
        self.type(text)

    def caret(self, start, end=None):
        self.js(f"document.querySelector('#text-field').setSelectionRange({start}, {start if end is None else end})")

    def until_ready(self):
        self.until_text("#connection", "Connected")
        self.until(lambda: self.members() and self.js("!document.querySelector('#rows').innerText.startsWith('Waiting')"),
                   "the page is filled")
        return self

    # What the user does.

    def find(self, role, name):
        """The one control or part with this role and name, as the accessibility tree has it; None if there is none."""
        document = self.js("document", by_value=False)
        found = self.send("Accessibility.queryAXTree", objectId=document, role=role, accessibleName=name)["nodes"]
        shown = [node["backendDOMNodeId"] for node in found if not node["ignored"]]
        assert len(shown) <= 1, f"{len(shown)} are called {role} “{name}”"
        return shown[0] if shown else None

    def has(self, role, name):
        return self.find(role, name) is not None

    def click(self, role, name, times=1):
        def attempt():
            node = self.find(role, name)
            if node is None or (role == "button" and self.is_disabled(node)):
                return False
            return self.click_on(node, times)
        self.until(attempt, f"{role} “{name}” can be clicked")

    def click_on(self, node, times=1):
        """Clicks once; false if the part does not stand still, or moved away between the press and the release."""
        self.send("DOM.scrollIntoViewIfNeeded", backendNodeId=node)
        place = self.place(node)
        if place is None:
            return False
        seen = self.clicks(node)
        for count in range(1, times + 1):
            for type in ("mousePressed", "mouseReleased"):
                self.send("Input.dispatchMouseEvent", type=type, button="left", clickCount=count, **place)
        return seen() > 0

    def clicks(self, node):
        """Counts the clicks that a part gets from now on."""
        part = self.send("DOM.resolveNode", backendNodeId=node)["object"]["objectId"]
        function = ("function () { const seen = { clicks: 0 }; "
                    "this.addEventListener('click', () => { seen.clicks += 1; }, true); return seen; }")
        seen = self.send("Runtime.callFunctionOn", objectId=part, functionDeclaration=function)["result"]["objectId"]
        def count():
            try:
                return self.send("Runtime.callFunctionOn", objectId=seen, returnByValue=True,
                                 functionDeclaration="function () { return this.clicks; }")["result"]["value"]
            except Gone:
                return 1  # The click led to another page.
        return count

    def place(self, node):
        """The middle of a part; None while it moves or something lies over it: rows may come in above it."""
        def middle():
            quad = self.send("DOM.getContentQuads", backendNodeId=node)["quads"][0]
            return {"x": sum(quad[0::2]) / 4, "y": sum(quad[1::2]) / 4}
        before = middle()
        function = ("function () { return new Promise((tell) => requestAnimationFrame(() => { "
                    "const { x, y, width, height } = this.getBoundingClientRect(); "
                    "const hit = document.elementFromPoint(x + width / 2, y + height / 2); "
                    "tell(this === hit || this.contains(hit)); })); }")
        part = self.send("DOM.resolveNode", backendNodeId=node)["object"]["objectId"]
        hit = self.send("Runtime.callFunctionOn", objectId=part, functionDeclaration=function, awaitPromise=True,
                        returnByValue=True)
        return before if hit["result"]["value"] and middle() == before else None

    def is_disabled(self, node):
        node = self.send("DOM.resolveNode", backendNodeId=node)["object"]["objectId"]
        function = "function () { return this.ariaDisabled === 'true'; }"
        return self.send("Runtime.callFunctionOn", objectId=node, functionDeclaration=function)["result"]["value"]

    def fill(self, role, name, text):
        """Puts the caret into a field and types over what is there."""
        self.click(role, name)
        self.press("a", "KeyA", 65, ctrl=True, commands=["selectAll"])
        self.type(text)

    def type(self, text):
        self.send("Input.insertText", text=text)

    def press(self, key, code=None, number=None, ctrl=False, **more):
        number = number or {"Enter": 13, "Escape": 27, "Tab": 9, "Backspace": 8, "End": 35, "Home": 36, "ArrowLeft": 37,
                            "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}[key]
        common = {"key": key, "code": code or key, "windowsVirtualKeyCode": number, "modifiers": 2 if ctrl else 0}
        text = {"text": "\r"} if key == "Enter" and not ctrl else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", **common, **text, **more)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def add(self, id, text):
        self.click("button", "Add document")
        self.fill("textbox", "Id (left empty, the node makes one)", id)
        self.fill("textbox", "Value (JSON)", text)
        self.click("button", "Add")

    def edit(self, id, text):
        """Opens the editor and types, without saving."""
        self.click("button", f"Edit {id}")
        self.fill("textbox", f"Value of {id}, JSON", text)

    def save(self, id, text):
        self.edit(id, text)
        self.click("button", "Save")

    def remove(self, id):
        self.click("button", f"Delete {id}")
        self.click("button", f"Yes, delete {id}")


# ---- The stage of a test ----


class Stage:
    """What a test gets: the nodes, and tabs that close when it ends."""

    def __init__(self, program, browser, nodes):
        self.program = program
        self.browser = browser
        self.nodes = nodes
        self.tabs = []
        self.scene = 0

    def begin(self):
        self.scene += 1
        self.collection = f"scene-{self.scene}"

    def open(self, node, query="", width=1400, height=900, dark=False):
        collection = "" if "collection=" in query else f"collection={self.collection}"
        url = f"{node.url}/?{'&'.join(filter(None, (query, collection)))}"
        page = Page.open(self.browser, url, width, height, dark)
        self.tabs.append(page)
        return page

    def open_ready(self, node, **more):
        return self.open(node, **more).until_ready()

    def open_text(self, node, id, **more):
        page = self.open_ready(node, query=f"text={urllib.parse.quote(id)}", **more)
        page.until_saved()
        return page

    def picture(self, page, name):
        """Saves a picture of a page, and closes it: pages that stay open go on drawing, and slow the next ones down."""
        page.screenshot(SCREENSHOTS / f"{name}.png")
        self.tabs.remove(page)
        page.close()

    def forgive(self, url):
        """Forgets the failures at an address where no node was, as the test wanted."""
        address = url.removeprefix("http://")
        self.browser.troubles = [trouble for trouble in self.browser.troubles if address not in trouble]

    def end(self):
        while self.tabs:
            self.tabs.pop().close()
        for node in self.nodes:
            if node.call("GET", "/v1/pool")["cut"]:
                node.cut(False)
        for node in self.nodes:
            until(lambda: node.is_linked_to(2), f"{node.name} links to both others again")


TESTS = []


def test(function):
    TESTS.append(function)
    return function


# ---- Documents ----


@test
def the_page_says_which_node_it_is_of_and_that_it_is_connected(stage):
    for node in stage.nodes:
        page = stage.open_ready(node)
        page.until_text("#identity", node.name)
        page.until_text("#identity", "member")
        page.until(lambda: page.js("document.title") == f"{node.name} · Lamplight", "the title names the node")
        page.until_text("#rows", "Nothing in")


@test
def a_document_added_on_one_node_appears_on_the_others_at_once(stage):
    pages = [stage.open_ready(node) for node in stage.nodes]
    pages[0].add("lamp oil", '{"litres": 2, "size": 9007199254740993, "note": "<b>not</b> markup"}')
    wanted = {"lamp oil": {"litres": 2, "size": 9007199254740993, "note": "<b>not</b> markup"}}
    for page in pages:
        page.until_rows(wanted)
        assert page.js("document.querySelector('#rows b')") is None
    pages[0].until_text("#receipt", "Added")
    pages[0].until_text("#receipt", "final")
    assert stage.nodes[1].get(stage.collection, "lamp oil") == wanted["lamp oil"], "the integer is kept exactly"


@test
def a_document_added_without_an_id_gets_one_from_the_node(stage):
    ada, ben = (stage.open_ready(node) for node in stage.nodes[:2])
    ada.add("", '"wick"')
    ben.until(lambda: list(ben.rows().values()) == ["wick"], "ben shows it")
    [id] = ben.rows()
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", id), id


@test
def a_document_is_edited_in_place_and_changes_on_the_other_page(stage):
    stage.nodes[0].put(stage.collection, "tea", {"cups": 1})
    ada, ben = (stage.open_ready(node) for node in stage.nodes[:2])
    for page in (ada, ben):
        page.until_rows({"tea": {"cups": 1}})
    ada.save("tea", '{"cups": 2}')
    for page in (ada, ben):
        page.until_rows({"tea": {"cups": 2}})
    ada.until(lambda: ada.js("document.activeElement.ariaLabel") == "Edit tea", "the focus is on Edit again")
    # The other way, by a double click on the value and with the keyboard.
    def double_click():
        value = ben.send("DOM.describeNode", objectId=ben.js("document.querySelector('.value')", by_value=False))
        return ben.click_on(value["node"]["backendNodeId"], times=2)
    ben.until(double_click, "the value can be clicked")
    ben.until(lambda: ben.js("document.activeElement.tagName") == "TEXTAREA", "a double click opens the editor")
    ben.press("a", "KeyA", 65, ctrl=True, commands=["selectAll"])
    ben.type("[1, 2]")
    ben.press("Enter", ctrl=True)
    for page in (ada, ben):
        page.until_rows({"tea": [1, 2]})


@test
def a_document_is_deleted_after_asking_and_goes_from_the_other_page(stage):
    for id in ("oil", "wick"):
        stage.nodes[0].put(stage.collection, id, {})
    ada, ben = (stage.open_ready(node) for node in stage.nodes[:2])
    ada.click("button", "Delete oil")
    ada.click("button", "Keep oil")
    ada.until(lambda: ada.has("button", "Delete oil"), "it was kept")
    ada.remove("oil")
    for page in (ada, ben):
        page.until_rows({"wick": {}})
    ada.until_text("#receipt", "Deleted")
    assert stage.nodes[2].call("GET", f"/v1/docs/{stage.collection}")["docs"][0]["id"] == "wick"


@test
def json_that_cannot_be_read_is_named_and_nothing_is_written(stage):
    node = stage.nodes[0]
    node.put(stage.collection, "tea", 1)
    before = node.call("GET", "/v1/pool")["ops"]
    page = stage.open_ready(node)
    page.add("broken", '{"a": ')
    page.until_text("#adding [role=alert]", "Not valid JSON")
    page.fill("textbox", "Value (JSON)", '{"a": 1, "a": 2}')
    page.until(lambda: not page.text("#adding [role=alert]"), "the fault goes as soon as the text reads")
    page.click("button", "Add")
    page.until_text("#adding [role=alert]", "key")
    page.press("Escape")
    page.until(lambda: not page.text("#adding"), "Escape closes the form")
    page.save("tea", "[1")
    page.until_text("#rows [role=alert]", "Not valid JSON")
    assert page.rows()["tea"] == "[1", "the text typed is kept"
    page.press("Escape")
    page.until_rows({"tea": 1})
    assert node.call("GET", "/v1/pool")["ops"] == before


@test
def adding_does_not_write_over_a_document_that_is_there(stage):
    stage.nodes[1].put(stage.collection, "tea", "ben's")
    page = stage.open_ready(stage.nodes[0])
    page.until_rows({"tea": "ben's"})
    page.add("tea", '"mine"')
    page.until_text("#adding [role=alert]", "already")
    assert stage.nodes[0].get(stage.collection, "tea") == "ben's"


# ---- Conflicts ----


@test
def a_change_made_meanwhile_can_be_overwritten(stage):
    stage.nodes[0].put(stage.collection, "tea", "first")
    ada, ben = (stage.open_ready(node) for node in stage.nodes[:2])
    ada.edit("tea", '"mine"')
    ben.save("tea", '"theirs"')
    ada.until_text("#rows [role=alert]", 'Changed meanwhile by ben. It now is: "theirs"')
    assert ada.rows()["tea"] == '"mine"', "the text typed is kept"
    ada.click("button", "Overwrite with mine")
    for page in (ada, ben):
        page.until_rows({"tea": "mine"})


@test
def a_change_made_meanwhile_can_be_taken(stage):
    stage.nodes[0].put(stage.collection, "tea", "first")
    ada, ben = (stage.open_ready(node) for node in stage.nodes[:2])
    ada.edit("tea", '"mine"')
    ben.save("tea", '"theirs"')
    ada.click("button", "Take theirs")
    ada.until_rows({"tea": "theirs"})
    assert stage.nodes[0].get(stage.collection, "tea") == "theirs"


@test
def a_document_deleted_meanwhile_can_be_put_back_or_let_go(stage):
    for id in ("oil", "wick"):
        stage.nodes[0].put(stage.collection, id, 1)
    page = stage.open_ready(stage.nodes[0])
    for id, answer in (("oil", "Put mine back"), ("wick", "Let it go")):
        page.edit(id, "2")
        stage.nodes[1].delete(stage.collection, id)
        page.until_text("#rows [role=alert]", "Deleted meanwhile by ben")
        page.click("button", answer)
        page.until(lambda: not page.text("#rows [role=alert]"), "the conflict is settled")
    page.until_rows({"oil": 2})


@test
def a_document_that_changed_since_it_was_looked_at_is_not_deleted(stage):
    stage.nodes[0].put(stage.collection, "tea", 1)
    page = stage.open_ready(stage.nodes[0])
    page.click("button", "Delete tea")
    stage.nodes[1].put(stage.collection, "tea", 2)
    page.until_rows({"tea": 2})
    page.click("button", "Yes, delete tea")
    page.until_text("#receipt", "was not deleted: it changed meanwhile")
    page.until_rows({"tea": 2})


@test
def typing_goes_on_undisturbed_while_changes_arrive(stage):
    stage.nodes[0].put(stage.collection, "middle", "0123456789")
    page = stage.open_ready(stage.nodes[0])
    page.edit("middle", '"abcdef"')
    page.js("document.activeElement.setSelectionRange(4, 4)")
    for id in ("after", "before", "zero"):
        stage.nodes[1].put(stage.collection, id, {})
    page.until(lambda: len(page.rows()) == 4, "the others' documents come in around the editor")
    page.type("-")
    page.until(lambda: page.rows()["middle"] == '"abc-def"', "the caret stayed where it was")


# ---- Finding ----


@test
def a_filter_shows_what_matches_and_follows_changes(stage):
    for id, done in (("milk", False), ("oil", True), ("tea", False)):
        stage.nodes[0].put(stage.collection, id, {"done": done})
    page = stage.open_ready(stage.nodes[0])
    name = "Filter (a JSON selector)"
    page.fill("searchbox", name, '{"done": false')
    page.until_text("#filter-error", "A filter is a JSON object")
    page.type("}")
    page.until_rows({"milk": {"done": False}, "tea": {"done": False}})
    assert not page.text("#filter-error")
    stage.nodes[1].put(stage.collection, "tea", {"done": True})
    page.until_rows({"milk": {"done": False}})
    page.fill("searchbox", name, '{"done": {"$near": 1}}')
    page.until_text("#filter-error", "$near")
    page.until_rows({"milk": {"done": False}})
    page.fill("searchbox", name, "")
    page.press("Backspace")
    page.until(lambda: len(page.rows()) == 3 and not page.text("#filter-error"), "without a filter all are shown")


@test
def another_collection_is_opened_by_choosing_or_by_naming_it(stage):
    harbour = f"{stage.collection}-harbour"
    stage.nodes[1].put(harbour, "quay", 7)
    page = stage.open_ready(stage.nodes[0])
    option = f"#collection option[value='{harbour}']"
    page.until(lambda: page.js(f"document.querySelector(\"{option}\")?.textContent") == f"{harbour} (1)", "listed")
    page.js("document.querySelector('#collection').focus()")
    for letter in harbour:
        page.send("Input.dispatchKeyEvent", type="char", text=letter)
    page.until_rows({"quay": 7})
    assert f"collection={harbour}" in page.js("location.href")
    page.press("ArrowDown")
    while page.js("document.querySelector('#collection').value") != "/other":
        page.press("ArrowDown")
    page.until(lambda: page.js("document.activeElement.id") == "collection-name", "the name is asked for")
    page.type("brand-new")
    page.press("Enter")
    page.until_text("#rows", "Nothing in brand-new yet")


# ---- The pool ----


@test
def the_members_are_listed_and_linked(stage):
    for node in stage.nodes:
        page = stage.open_ready(node)
        wanted = {other.name: "this node" if other is node else "linked" for other in stage.nodes}
        page.until(lambda: {name: cells[0].split(" ", 1)[1] for name, cells in page.members().items()} == wanted,
                   "this node and the two others, linked")
        page.until_text("#links", "Linked to 2 of 2 others.")


@test
def the_log_is_in_lamport_order_with_the_newest_on_top(stage):
    page = stage.open_ready(stage.nodes[0])
    for turn in range(4):
        node = stage.nodes[turn % 3]
        node.put(stage.collection, f"turn-{turn}", turn)
        # The next writer has seen this op, so its stamp is greater.
        page.until(lambda: f"turn-{turn}" in page.rows(), "the op is here")
        until(lambda: all(other.call("GET", "/v1/pool")["clock"] == node.call("GET", "/v1/pool")["clock"]
                          for other in stage.nodes), "all clocks have seen it")
    page.until(lambda: f"turn-3" in page.log()[0][2], "the last op is on top")
    log = page.log()
    times = [int(time) for time, *_ in log]
    assert times == sorted(times, reverse=True), times
    assert [op[1] for op in log[:4]] == ["ada", "cleo", "ben", "ada"], log[:4]
    assert log[0][2] == f"put {stage.collection}/turn-3 3", log[0]
    assert "applied" in log[0][3], log[0]
    page.until(lambda: "final" in page.log()[0][3], "nothing can come before it any more")
    assert log[-1][2].startswith("add member"), log[-1]


@test
def both_sides_of_a_cut_go_on_writing_and_agree_when_it_is_joined(stage):
    ada_node, _, cleo_node = stage.nodes
    for id in ("edited", "put"):
        ada_node.put(stage.collection, id, "before")
    ada, cleo = stage.open_ready(ada_node), stage.open_ready(cleo_node)
    for page in (ada, cleo):
        page.until_rows({"edited": "before", "put": "before"})

    cleo.click("button", "Cut links")
    cleo.until_text("#links [role=status]", "This node is cut off.")
    ada.until(lambda: "linked" not in ada.members()["cleo"][0], "ada sees the link go")
    for page, node, side in ((ada, ada_node, "ada"), (cleo, cleo_node, "cleo")):
        page.save("edited", f'"by {side}"')
        page.add(f"only {side}", "true")
        node.put(stage.collection, "put", f"by {side}")
    for page, side in ((ada, "ada"), (cleo, "cleo")):
        page.until_rows({"edited": f"by {side}", f"only {side}": True, "put": f"by {side}"})

    cleo.click("button", "Join links")
    wanted = {"only ada": True, "only cleo": True}
    for page in (ada, cleo):
        page.until(lambda: page.rows().keys() == {"edited", "only ada", "only cleo", "put"}, "both sides' are here")
        page.until_text("#links", "Linked to 2 of 2 others.")
    # A plain put: the greater stamp wins. An edit carries the version that it began from: the lesser stamp wins, since
    # the other's guard then fails at its place.
    puts, edits = stamps(ada_node, stage.collection, "put"), stamps(ada_node, stage.collection, "edited")
    wanted |= {"put": max(puts)[2], "edited": min(edits)[2]}
    for page in (ada, cleo):
        page.until_rows(wanted)
        page.until(lambda: [op[2].splitlines()[0] for op in page.log() if "rejected" in op[3]] ==
                   [f'put {stage.collection}/edited "{max(edits)[2]}"'], "the log names the rejected edit")
    loser = ada if max(edits)[2] == "by ada" else cleo
    loser.until_text("#receipt", f"Saved {stage.collection}/edited")
    loser.until_text("#receipt", "rejected")


def stamps(node, collection, id):
    """The last two puts of a document as (time, node id, value)."""
    found = []
    for op in node.call("GET", "/v1/log?order=desc&limit=50")["ops"]:
        for command in op["commands"]:
            put = command.get("put", {})
            if (put.get("collection"), put.get("id")) == (collection, id):
                found.append((int(op["time"]), op["origin"], put["value"]))
    return found[:2]


@test
def three_nodes_stand_side_by_side_in_frames_that_work(stage):
    tab = stage.open(stage.nodes[0])
    tab.click("button", "Side by side")
    frames = tab.frames()
    pages = {node.name: frames[f"The node {node.name}"].until_ready() for node in stage.nodes}
    for node in stage.nodes:
        pages[node.name].until_text("#identity", node.name)
    pages["ben"].add("tea", '{"cups": 1}')
    for page in pages.values():
        page.until_rows({"tea": {"cups": 1}})
    pages["cleo"].click("button", "Cut links")
    pages["cleo"].until_text("#links", "This node is cut off.")
    pages["cleo"].save("tea", '{"cups": 2}')
    pages["cleo"].until_rows({"tea": {"cups": 2}})
    pages["ada"].until_rows({"tea": {"cups": 1}})
    pages["cleo"].click("button", "Join links")
    for page in pages.values():
        page.until_rows({"tea": {"cups": 2}})
    assert tab.js("location.search").endswith("&side")
    tab.click("button", "Back to this node")
    tab.until_rows({"tea": {"cups": 2}})


@test
def a_page_outlives_its_node_and_goes_on_with_a_new_one_at_its_address(stage):
    first = free_ports(3)
    one, two, three = (Node(f"n{place}", first + place - 1) for place in (1, 2, 3))
    stage.browser.origins |= {node.url for node in (one, two, three)}
    with contextlib.ExitStack() as stack:
        stack.enter_context(serve(stage.program, one))
        until(lambda: one.is_linked_to(0), "the first founds a pool")
        stack.enter_context(serve(stage.program, two, one))
        killed = stack.enter_context(serve(stage.program, three, one))
        for node in (one, two, three):
            until(lambda: node.is_linked_to(2), f"{node.name} links to both others")
        one.put(stage.collection, "tea", 1)
        page, other = stage.open_ready(three), stage.open_ready(one)
        page.until_rows({"tea": 1})
        page.edit("tea", '"not yet saved"')

        killed.kill()
        page.until(lambda: "Offline" in page.text("#connection") or "Connecting" in page.text("#connection"),
                   "the page says that it is offline")
        page.until_text("#links", "This node does not answer.")
        other.until(lambda: other.members()["n3"][0].endswith(("none", "dialling")), "n1 sees the link go")
        one.put(stage.collection, "oil", 2)

        stack.enter_context(serve(stage.program, three, two))
        page.until_ready()
        page.until_rows({"oil": 2, "tea": '"not yet saved"'})
        # The one whose place it has taken is evicted.
        page.until_text("#links", "Linked to 2 of 2 others.")
        page.click("button", "Save")
        other.until_rows({"oil": 2, "tea": "not yet saved"})
        # Tabs go first, so that they do not ask for the nodes that end now.
        while stage.tabs:
            stage.tabs.pop().close()
    stage.forgive(three.url)


# ---- Space and time ----

# How many pixels of the canvas have the colour of a name of the stylesheet, and the last column of them in one row.
PIXELS = """
(function (className, name, row) {
  const canvas = document.querySelector('#diagram canvas');
  const { width, height } = canvas;
  const [copy, one] = [[width, height], [1, 1]].map((size) => new OffscreenCanvas(...size).getContext('2d', { willReadFrequently: true }));
  const probe = document.createElement('span');
  probe.className = className;
  probe.style.color = `var(--${name})`;
  document.querySelector('#diagram').append(probe);
  one.fillStyle = getComputedStyle(probe).color;
  probe.remove();
  one.fillRect(0, 0, 1, 1);
  const wanted = one.getImageData(0, 0, 1, 1).data;
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, width, height);
  const is = (x, y) => [0, 1, 2].every((part) => Math.abs(data[4 * (y * width + x) + part] - wanted[part]) < 12);
  let [count, column] = [0, null];
  for (let y = 0; y < height; y += 1) for (let x = 0; x < width; x += 1) if (is(x, y)) count += 1;
  for (let x = 0; x < width; x += 1) if (is(x, row)) column = x;
  return { count, column, width };
})
"""


# Rows of the canvas while it has three lanes: the line of the first, and one just above the axis, where nothing but the
# frontier has the accent's colour.
FIRST_LANE, ABOVE_AXIS = 71, 218


def pixels(page, class_name, name, row=ABOVE_AXIS):
    return page.js(f"{PIXELS}({json.dumps(class_name)}, {json.dumps(name)}, {row})")


def go_to_op(page, stamp):
    """Chooses an op of the diagram with the arrow keys: along its lane, from the newest op of all."""
    time, origin = stamp.split("@")
    page.js("document.querySelector('#diagram canvas').focus()")
    page.press("End")
    said = lambda: page.text(".diagram-said")
    name = next(member["name"] for member in stage_members(page) if member["id"] == origin)
    place = lambda: sorted(member["name"] for member in stage_members(page)).index(said().split(" of ")[1].split(":")[0])
    lane = sorted(member["name"] for member in stage_members(page)).index(name)
    while place() != lane:
        page.press("ArrowDown" if place() < lane else "ArrowUp")
    while int(said().split()[0]) != int(time):
        page.press("ArrowLeft" if int(said().split()[0]) > int(time) else "ArrowRight")
    return said()


def stage_members(page):
    return page.js("fetch('/v1/pool').then((answer) => answer.json())")["members"]


def until_in_diagram(page, ops):
    page.until(lambda: int((page.text(".diagram-count").replace(",", "").removeprefix("the last ").split() or ["0"])[0]) >= ops,
               f"{ops} operations are in the diagram")


@test
def the_diagram_shows_the_ops_of_all_nodes_and_tells_them_to_the_keyboard(stage):
    page = stage.open_ready(stage.nodes[0])
    stamps = []
    for node in stage.nodes:
        stamps.append(node.put(stage.collection, f"of {node.name}", {"by": node.name})["stamp"])
        page.until(lambda: f"of {node.name}" in page.rows(), "it is here")
    until_in_diagram(page, int(stage.nodes[0].call("GET", "/v1/pool")["ops"]))
    for place in range(3):
        page.until(lambda: pixels(page, f"node-{place}", "node")["count"] > 60, f"lane {place} has its dots")
    for node, stamp in zip(stage.nodes, stamps):
        said = go_to_op(page, stamp)
        assert said.startswith(f"{stamp.split('@')[0]} of {node.name}: put {stage.collection}/of {node.name}"), said
        assert "concurrent with none" in said, said
        page.until_text(".op-details", f"put {stage.collection}/of {node.name} {{\"by\":\"{node.name}\"}}")
        page.until_text(".op-details .verdict", "applied, final")
    page.press("ArrowUp")
    assert " of ben: " in page.text(".diagram-said"), page.text(".diagram-said")
    page.press("Enter")
    page.until(lambda: page.js("document.activeElement.textContent") == "Show documents at this op", "Enter goes to the details")
    page.click("button", "Close")
    page.until_text(".op-details", "Choose an operation")
    assert page.js("document.activeElement.tagName") == "CANVAS"


@test
def ops_are_chosen_and_the_time_is_moved_with_the_pointer(stage):
    page = stage.open_ready(stage.nodes[0])
    stamp = stage.nodes[0].put(stage.collection, "tea", 1)["stamp"]
    page.until(lambda: "tea" in page.rows(), "it is here")
    # What the page says of an operation changes once that is final.
    page.until(lambda: ", final," in go_to_op(page, stamp), "the operation is final")
    said = go_to_op(page, stamp)
    page.press("Escape")
    page.js("document.querySelector('#diagram').scrollIntoView()")
    box = page.js("(() => { const { x, y, width } = document.querySelector('#diagram canvas').getBoundingClientRect(); return { x, y, width }; })()")
    mouse = lambda type, x, y, **more: page.send("Input.dispatchMouseEvent", type=type, x=box["x"] + x, y=box["y"] + y, **more)
    click = lambda x, y: [mouse(type, x, y, button="left", clickCount=1) for type in ("mousePressed", "mouseReleased")]
    place = (pixels(page, "node-0", "node", FIRST_LANE)["column"] - 3, FIRST_LANE)
    mouse("mouseMoved", *place)
    page.until_text(".diagram-tip", f"put {stage.collection}/tea")
    click(*place)
    page.until_text(".op-details", f"put {stage.collection}/tea")
    assert page.text(".diagram-said") == said
    click(box["width"] - 20, 240)
    page.until_text(".op-details", "Choose an operation")
    mouse("mousePressed", 700, 200, button="left", clickCount=1)
    for x in (650, 600, 400):
        mouse("mouseMoved", x, 200, button="left", buttons=1)
    mouse("mouseReleased", 400, 200, button="left", clickCount=1)
    page.until(lambda: page.js("document.querySelector('[data-diagram=follow]').ariaPressed") == "false", "the present is let go")
    page.click("button", "Follow now")
    page.until(lambda: page.js("document.querySelector('[data-diagram=follow]').ariaPressed") == "true", "it is followed")
    page.click("button", "Zoom in")
    page.click("button", "Zoom out")


@test
def ops_on_both_sides_of_a_cut_are_concurrent_and_the_frontier_moves_once_it_is_joined(stage):
    ada, _, cleo = stage.nodes
    ada.put(stage.collection, "before", 0)
    until(lambda: cleo.call("GET", f"/v1/docs/{stage.collection}")["docs"], "cleo has it")
    page = stage.open_ready(ada)
    page.until(lambda: pixels(page, "", "accent")["column"], "the frontier is drawn")
    cleo.cut(True)
    until(lambda: not ada.is_linked_to(2), "the link is gone")
    here = [ada.put(stage.collection, "tea", f"ada {turn}")["stamp"] for turn in range(8)]
    there = [cleo.put(stage.collection, "tea", f"cleo {turn}")["stamp"] for turn in range(2)]
    said = go_to_op(page, here[0])
    assert "tentative, concurrent with none" in said, said
    page.until(lambda: (line := pixels(page, "", "accent")) and line["column"] < line["width"] - 120, "the frontier stays behind")
    page.until_text("#held-back", "cleo")
    held = pixels(page, "", "accent")["column"]
    cleo.cut(False)
    page.until_text(".op-details", "Concurrent with 2 operations")
    page.until_text(".op-details .verdict", "final")
    for stamp in there:
        assert page.has("button", f"Go to {stamp.split('@')[0]} of cleo"), stamp
    page.until(lambda: pixels(page, "", "accent")["column"] > held + 60, "the frontier has moved on")
    page.click("button", f"Go to {there[1].split('@')[0]} of cleo")
    page.until_text(".op-details", "Concurrent with 8 operations")
    page.until_text(".op-details", 'put ' + stage.collection + '/tea "cleo 1"')


@test
def a_verdict_that_a_late_op_turns_is_shown_turned(stage):
    ada, _, cleo = stage.nodes
    version = ada.put(stage.collection, "tea", 1)["version"]
    until(lambda: cleo.call("GET", f"/v1/docs/{stage.collection}")["docs"], "cleo has it")
    cleo.cut(True)
    until(lambda: not ada.is_linked_to(2), "the link is gone")
    page = stage.open_ready(cleo)
    guarded = lambda node, value: node.call("POST", "/v1/tx", {
        "guards": [{"version": {"collection": stage.collection, "id": "tea", "version": version}}],
        "commands": [{"put": {"collection": stage.collection, "id": "tea", "value": value}}]})["stamp"]
    ada_stamp = guarded(ada, "ada's")
    # A later time than ada's, whatever the ids are: cleo's clock has gone on.
    cleo.put(stage.collection, "other", 1)
    cleo_stamp = guarded(cleo, "cleo's")
    go_to_op(page, cleo_stamp)
    page.until_text(".op-details .verdict", "applied, tentative")
    cleo.cut(False)
    page.until_text(".op-details .verdict", "rejected, final")
    page.until_text(".op-details .reason", "guard")
    assert pixels(page, "", "bad")["count"] > 8, "a cross is drawn"
    assert ada_stamp != cleo_stamp


@test
def the_slider_shows_the_documents_of_a_time_past_and_comes_back(stage):
    node = stage.nodes[0]
    times = [int(node.put(stage.collection, "tea", turn)["stamp"].split("@")[0]) for turn in range(3)]
    node.delete(stage.collection, "tea")
    node.put(stage.collection, "oil", "new")
    page = stage.open_ready(node)
    page.until_rows({"oil": "new"})
    page.until(lambda: page.js("document.querySelector('#past-time').max") == str(times[-1] + 2), "the slider reaches to now")
    top = lambda: page.js("[...document.querySelectorAll('#rows, #pool, #diagram')].map((part) => part.getBoundingClientRect().top)")
    before = top()
    page.js("document.querySelector('#past-time').focus()")
    for turn in (2, 1, 0):
        while f"At time {times[turn]}," not in page.text("#past"):
            page.press("ArrowLeft")
        page.until_rows({"tea": turn})
    assert top() == before, "nothing has moved"
    assert page.js("document.querySelector('#past-time').ariaValueText").startswith(f"time {times[0]} of")
    assert not page.has("button", "Edit tea") and not page.has("button", "Add document"), "the past is read only"
    # What comes meanwhile does not disturb it.
    node.put(stage.collection, "wick", 1)
    page.until(lambda: page.js("document.querySelector('#past-time').max") == str(times[-1] + 3), "time has gone on")
    assert page.rows() == {"tea": 0}
    page.click("button", "Back to now")
    page.until_rows({"oil": "new", "wick": 1})
    assert page.js("document.activeElement.id") == "past-time"
    # The other way: from an op of the diagram.
    go_to_op(page, f"{times[1]}@{node.call('GET', '/v1/pool')['node']}")
    page.click("button", "Show documents at this op")
    page.until_rows({"tea": 1})
    page.until_text("#past", f"At time {times[1]}, read only")
    page.click("button", "Back to now")
    page.until_rows({"oil": "new", "wick": 1})


@test
def the_slider_begins_where_the_node_has_forgotten_what_was_before(stage):
    node = Node("solo", free_ports(1))
    stage.browser.origins |= {node.url}
    horizon = lambda: int(node.call("GET", "/v1/pool")["horizon"])
    with serve(stage.program, node, None, "--retain-ops", "5"):
        until(lambda: node.is_linked_to(0), "it founds a pool")
        for turn in range(12):
            node.put(stage.collection, "tea", turn)
        first = until(horizon, "it has forgotten its first operations")
        page = stage.open_ready(node)
        page.until(lambda: page.js("document.querySelector('#past-time').min") == str(first), "the slider begins there")
        page.until_text(".diagram-count", "the last")
        page.js("document.querySelector('#past-time').focus()")
        page.press("Home")
        page.until_text("#past", f"At time {first}, read only")
        page.until(lambda: "tea" in page.rows(), "the documents of that time are here")
        for turn in range(20):
            node.put(stage.collection, "tea", turn)
        until(lambda: horizon() > first + 5, "it has forgotten that time too")
        page.fill("searchbox", "Filter (a JSON selector)", "{}")
        page.until_text("#rows [role=alert]", "This node has forgotten the operations up to time")
        page.click("button", "Back to now")
        page.until_rows({"tea": 19})
        while stage.tabs:
            stage.tabs.pop().close()
    # That time is answered with 410, as it should be.
    stage.forgive(node.url)


@test
def cutting_and_joining_from_the_page_changes_the_picture(stage):
    page = stage.open_ready(stage.nodes[0])
    said = lambda: page.js("document.querySelector('.pool-picture').ariaLabel")
    lines = lambda: page.js("[...document.querySelectorAll('.wire-line')].map((line) => line.getAttribute('class').split(' ')[1])")
    page.until(lambda: lines() == ["linked"] * 2, "both links are whole")
    assert said().startswith("The pool has 3 nodes. ada: this node, clock"), said()
    assert "ben: linked" in said() and "cleo: linked" in said(), said()
    page.click("button", "Cut links")
    page.until(lambda: lines() == ["cut"] * 4, "both are broken in two")
    assert "ben: link cut" in said() and "cleo: link cut" in said(), said()
    stage.nodes[0].put(stage.collection, "tea", 1)
    page.until(lambda: "ben: link cut" in said() and said().count("holds finality back") == 2, "both others hold finality back")
    page.click("button", "Join links")
    page.until(lambda: lines() == ["linked"] * 2 and "holds" not in said(), "both links are whole again")


# ---- The client, static/lamplight.js ----


class Client:
    """The client in a tab of its own, on the page of a node, whose own doings do not concern it."""

    def __init__(self, stage, node, script=""):
        self.page = stage.open_ready(node)
        self.js(f"""const {{ connect }} = await import("/static/lamplight.js");
            globalThis.pool = connect();
            globalThis.notes = pool.collection({json.dumps(stage.collection)});
            {script}""")

    def js(self, script):
        return self.page.js(f"(async () => {{ {script} }})()")

    def close(self, stage):
        stage.tabs.remove(self.page)
        self.page.close()


def stored(stage, node):
    listing = node.call("GET", f"/v1/docs/{stage.collection}")["docs"]
    return {doc["id"]: doc["value"] for doc in listing}


@test
def writes_queued_offline_survive_the_page_and_are_sent_once(stage):
    first = free_ports(2)
    one, two = Node("n1", first), Node("n2", first + 1)
    stage.browser.origins |= {one.url, two.url}
    with contextlib.ExitStack() as stack:
        stack.enter_context(serve(stage.program, one))
        until(lambda: one.is_linked_to(0), "the first founds a pool")
        killed = stack.enter_context(serve(stage.program, two, one))
        for node in (one, two):
            until(lambda: node.is_linked_to(1), f"{node.name} links to the other")
        one.put(stage.collection, "tea", {"cups": 1})
        client = Client(stage, two)
        client.js("globalThis.live = notes.watch(); await live.ready;")
        killed.kill()
        client.page.until(lambda: client.js("return pool.state") != "online", "the client is offline")
        shown = client.js("""
            for (let n = 0; n < 20; n += 1) notes.patch("tea", [{ op: "increment", path: "/cups", by: 1 }]);
            notes.put("oil", "by me", { ifAbsent: true });
            return live.docs.map(({ id, value, pending }) => [id, value, pending]);""")
        assert shown == [["oil", "by me", True], ["tea", {"cups": 21}, True]], shown
        # Each is in the database once its transaction is complete, which the next read waits for.
        client.js("await new Promise((done) => setTimeout(done, 200))")
        client.page.send("Page.navigate", url="about:blank")
        client.close(stage)

        stack.enter_context(serve(stage.program, two, one))
        until(lambda: two.is_linked_to(1), "the node is back")
        again = Client(stage, two)
        again.js("await pool.settled();")
        until(lambda: stored(stage, one) == {"oil": "by me", "tea": {"cups": 21}}, f"once each: {stored(stage, one)}")
        # Nothing is left to be sent by a page that comes later.
        again.close(stage)
        third = Client(stage, two, "await notes.put('last', 1); await pool.settled();")
        assert third.js("return pool.queued") == 0
        until(lambda: stored(stage, one) == {"last": 1, "oil": "by me", "tea": {"cups": 21}}, "nothing came twice")
        while stage.tabs:
            stage.tabs.pop().close()
    stage.forgive(two.url)


@test
def two_tabs_share_one_queue_and_one_of_them_sends(stage):
    node = stage.nodes[0]
    node.put(stage.collection, "tea", {"cups": 0})
    tabs = [Client(stage, node) for _ in range(2)]
    for tab in tabs:
        tab.js("""
            globalThis.receipts = [];
            for (let n = 0; n < 25; n += 1) {
              notes.patch("tea", [{ op: "increment", path: "/cups", by: 1 }]).then((receipt) => receipts.push(receipt.op));
            }""")
    ops = set()
    for tab in tabs:
        tab.page.until(lambda: tab.js("return receipts.length") == 25, "each tab gets its receipts")
        ops |= set(tab.js("return receipts"))
    assert len(ops) == 50, "each write is an operation of its own"
    assert stored(stage, node) == {"tea": {"cups": 50}}
    # The tab that sends goes; the other sends for itself.
    tabs[0].close(stage)
    assert tabs[1].js("return (await notes.put('oil', 1)).verdict") == "applied"
    assert stored(stage, node) == {"oil": 1, "tea": {"cups": 50}}


# ---- Texts ----


@test
def two_who_type_at_the_same_place_at_the_same_time_end_with_the_same_text(stage):
    stage.nodes[2].put_text(stage.collection, "plan", "[]")
    ada, ben = pages = [stage.open_text(node, "plan") for node in stage.nodes[:2]]
    for page in pages:
        page.until_written("[]")
        page.click("textbox", "Text of plan")
        page.caret(1)
    for one, other in zip("from ada ", "BY BEN 42"):
        ada.type(one)
        ben.type(other)
    for page in pages:
        page.until(lambda: len(page.written()) == 20, "all letters are here")
        page.until_saved()
    assert ada.written() == ben.written()
    assert ada.written() in ("[from ada BY BEN 42]", "[BY BEN 42from ada ]"), ada.written()
    for node in stage.nodes:
        until(lambda: node.get(stage.collection, "plan") == ada.written(), f"{node.name} has the same text")
    ada.until(lambda: ada.log()[0][2].startswith(f"edit {stage.collection}/plan"), "the log tells of edits")
    assert re.fullmatch(r"edit \S+/plan \d+ bytes", ada.log()[0][2]), ada.log()[0]


@test
def both_sides_of_a_cut_go_on_typing_and_their_texts_merge_when_it_is_joined(stage):
    stage.nodes[0].put_text(stage.collection, "plan", "shared\n")
    ada, cleo = pages = [stage.open_text(stage.nodes[place], "plan") for place in (0, 2)]
    for page in pages:
        page.until_written("shared\n")
    cleo.click("button", "Cut links")
    cleo.until_text("#editor-hint", "This node is cut off.")
    ada.until(lambda: "linked" not in ada.members()["cleo"][0], "ada sees the link go")
    ada.write("plan", "from ada\n")
    cleo.write("plan", "first ", at=0)
    cleo.write("plan", "from cleo\n")
    for page in pages:
        page.until_saved()
    assert (ada.written(), cleo.written()) == ("shared\nfrom ada\n", "first shared\nfrom cleo\n")
    cleo.click("button", "Join links")
    for page in pages:
        page.until(lambda: len(page.written()) == 32, "both sides' lines are here")
    assert ada.written() == cleo.written()
    assert ada.written() in ("first shared\nfrom ada\nfrom cleo\n", "first shared\nfrom cleo\nfrom ada\n"), ada.written()


@test
def what_is_typed_while_the_node_is_gone_goes_in_once_when_it_is_back(stage):
    first = free_ports(4)
    one, two, three, kept = (Node(f"n{place}", first + place - 1) for place in (1, 2, 3, 4))
    stage.browser.origins |= {node.url for node in (one, two, three, kept)}
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(tempfile.TemporaryDirectory(prefix="lamplight-data-"))
        on_disk = [stage.program, "serve", "--data", data, "--listen", f"127.0.0.1:{kept.port}", "--name", kept.name]
        stack.enter_context(serve(stage.program, one))
        until(lambda: one.is_linked_to(0), "the first founds a pool")
        stack.enter_context(serve(stage.program, two, one))
        forgetful = stack.enter_context(serve(stage.program, three, one))
        lasting = stack.enter_context(Process([*on_disk, "--join", one.url]))
        for node in (one, two, three, kept):
            until(lambda: node.is_linked_to(3), f"{node.name} links to all others")
        other = stage.open_text(one, "plan")
        # The one has lost its log and joins again under another id; the other comes back with its own.
        for node, process, again in ((three, forgetful, lambda: serve(stage.program, three, two)), (kept, lasting, lambda: Process(on_disk))):
            page = stage.open_text(node, "plan")
            page.write("plan", f"before {node.name}, ")
            page.until_saved()
            other.until(lambda: f"before {node.name}" in other.written(), "the other has it")
            process.kill()
            page.until_text(".editor-state", "Offline")
            page.write("plan", f"meanwhile {node.name}, ")
            page.until(lambda: re.search(r"(Offline|Connecting…), \d+ unsaved", page.text(".editor-state")), "it says that some is unsaved")
            page.until_text("#editor-hint", "What you type stays on this page")
            stack.enter_context(again())
            page.until_saved()
            page.until_ready()
            for each in (page, other):
                each.until(lambda: f"meanwhile {node.name}" in each.written(), "it has gone in")
        wanted = "before n3, meanwhile n3, before n4, meanwhile n4, "
        for each in (page, other):
            each.until_written(wanted)
        until(lambda: two.get(stage.collection, "plan") == wanted, "a third node has the same")
        while stage.tabs:
            stage.tabs.pop().close()
    stage.forgive(three.url)
    stage.forgive(kept.url)


@test
def a_text_outlives_a_reload_with_whatever_letters_it_has(stage):
    ada, ben = [stage.open_text(node, "letters ü/1") for node in stage.nodes[:2]]
    ada.write("letters ü/1", "lamp 🏮 ")
    ben.until_written("lamp 🏮 ")
    ben.write("letters ü/1", "👩‍👩‍👧 née", at=len("lamp ".encode("utf-16-le")) // 2)
    wanted = "lamp 👩‍👩‍👧 née🏮 "
    ada.until_written(wanted)
    ben.press("Backspace")
    ada.until_written(wanted.replace("née", "né"))
    for page in (ada, ben):
        page.until_saved()
    ada.send("Page.reload")
    ada.until(lambda: ada.js("performance.getEntriesByType('navigation')[0].type") == "reload", "it is loaded anew")
    ada.until_ready()
    ada.until_written(wanted.replace("née", "né"))
    assert stage.nodes[2].get(stage.collection, "letters ü/1") == wanted.replace("née", "né")


@test
def undo_takes_back_only_what_was_typed_here(stage):
    ada, ben = [stage.open_text(node, "plan") for node in stage.nodes[:2]]
    ada.write("plan", "ada's ")
    ben.until_written("ada's ")
    ben.write("plan", "ben's ")
    ada.until_written("ada's ben's ")
    ada.press("z", "KeyZ", 90, ctrl=True)
    for page in (ada, ben):
        page.until_written("ben's ")
    ada.press("z", "KeyZ", 90, ctrl=True)
    ada.click("button", "Redo my last edit")
    for page in (ada, ben):
        page.until_written("ada's ben's ")
    assert ada.js("document.activeElement.id") == "text-field", "the focus is in the text again"
    ada.click("button", "Undo my last edit")
    ben.until_written("ben's ")


@test
def who_else_is_here_is_shown_with_name_and_caret(stage):
    ada, ben = [stage.open_text(node, "plan") for node in stage.nodes[:2]]
    ada.until(lambda: ada.has("list", "Who else is here"), "the list has a name")
    ben.fill("textbox", "Your name", "Ben B.")
    ben.press("Enter")
    ben.until(lambda: ben.js("document.activeElement.id") == "text-field", "Enter goes on to the text")
    ben.type("one two three")
    ada.until_written("one two three")
    ben.caret(4, 7)
    ada.until(lambda: ada.text(".editor-others") == "Ben B.", "ben is here")
    ada.until(lambda: ada.text(".text-caret-name") == "Ben B.", "the caret has a name")
    ada.until(lambda: ada.js("[...document.querySelectorAll('.text-carets > div > span')].filter((part) => part.style.backgroundColor).map((part) => part.textContent)") == ["two"],
              "what ben has chosen is marked")
    inside = ("(() => { const field = document.querySelector('#text-field').getBoundingClientRect(); "
              "const caret = document.querySelector('.text-caret').getBoundingClientRect(); "
              "return field.left < caret.left && caret.left < field.left + 200 && field.top < caret.top && caret.top < field.top + 40; })()")
    assert ada.js(inside), "the caret stands in the first line"
    ben.until_saved()
    # The name is kept in the browser, and whoever leaves is no longer shown.
    ben.send("Page.reload")
    ben.until_ready()
    ben.until(lambda: ben.js("document.querySelector('#user-name').value") == "Ben B.", "the name is kept")
    ada.until(lambda: ada.text(".editor-others") == "Ben B." and not ada.text(".text-caret-name"), "there is one ben, without a caret")
    stage.tabs.remove(ben)
    ben.close()
    ada.until_text(".editor-others", "nobody else is here")


@test
def a_document_that_is_no_text_is_said_to_be_none(stage):
    stage.nodes[0].put(stage.collection, "tea", {"cups": 1})
    page = stage.open_ready(stage.nodes[0], query="text=tea")
    page.until_text(".editor-notice [role=alert]", f"{stage.collection}/tea is a JSON document, not a text.")
    page.until_text(".editor-state", "Not editable")
    page.click("button", "Edit as JSON")
    page.until(lambda: page.has("textbox", "Value of tea, JSON"), "it is edited where it stands")
    page.fill("textbox", "Id of a text to open or to begin", "notes on tea")
    page.press("Enter")
    page.until_saved()
    page.write("notes on tea", "hot")
    page.until_saved()
    assert stage.nodes[0].get(stage.collection, "notes on tea") == "hot"
    assert page.js("new URL(location.href).searchParams.get('text')") == "notes on tea"


@test
def a_text_deleted_while_it_is_edited_can_be_put_back(stage):
    for width in (360, 1400):
        ada, ben = [stage.open_text(node, f"plan {width}", width=width) for node in stage.nodes[:2]]
        ada.write(f"plan {width}", "worth keeping")
        ben.until_written("worth keeping")
        below = lambda: ada.js("document.querySelector('#editor').getBoundingClientRect().height")
        before = below()
        stage.nodes[1].delete(stage.collection, f"plan {width}")
        for page in (ada, ben):
            page.until_text(".editor-notice [role=alert]", f"{stage.collection}/plan {width} was deleted.")
        assert below() == before, "nothing below has moved"
        assert ada.written() == "worth keeping" and ada.js("document.querySelector('#text-field').readOnly")
        ada.click("button", "Put it back")
        ada.until_saved()
        ben.until_text(".editor-notice [role=alert]", "was replaced by another text.")
        ben.click("button", "Open the new text")
        for page in (ada, ben):
            page.until_written("worth keeping")
        ben.type("!")
        ada.until(lambda: "!" in ada.written(), "both edit it again")


@test
def texts_are_listed_and_opened_and_shown_as_they_were(stage):
    node = stage.nodes[0]
    first = node.put_text(stage.collection, "plan", "first")
    page = stage.open_ready(node)
    page.until_saved()
    page.until_written("first")
    assert page.text(".editor-texts") == "plan"
    node.put_text(stage.collection, "diary", "dear diary")
    node.put_text(stage.collection, "plan", "second")
    page.until_written("second")
    page.until(lambda: page.rows() == {"diary": None, "plan": None}, "they are in the table")
    page.until_text("#rows", "text")
    assert not page.has("button", "Edit diary"), "a text is not edited as JSON"
    page.click("button", "Open diary")
    page.until_written("dear diary")
    page.until(lambda: page.js("document.activeElement.id") == "text-field", "the caret is in the text")
    page.click("button", "plan")
    page.until_written("second")
    time = first["stamp"].split("@")[0]
    page.js(f"(() => {{ const slider = document.querySelector('#past-time'); slider.value = {time}; slider.dispatchEvent(new Event('input', {{ bubbles: true }})); }})()")
    page.until_text(".editor-notice", f"At time {time}, read only.")
    page.until(lambda: page.js("document.querySelector('.editor-past').value") == "first", "the text as it was")
    page.js("document.querySelector('.editor-texts').querySelector('[data-text=diary]').click()")
    page.until_text(".editor-notice", "it did not exist then")
    page.click("button", "Back to now")
    page.until_written("dear diary")
    assert page.js("document.querySelector('.editor-past').hidden")


@test
def edits_that_are_unsaved_when_another_text_is_opened_still_go_in(stage):
    node = Node("solo", free_ports(1))
    stage.browser.origins |= {node.url}
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(tempfile.TemporaryDirectory(prefix="lamplight-data-"))
        command = [stage.program, "serve", "--data", data, "--listen", f"127.0.0.1:{node.port}", "--name", "solo"]
        process = stack.enter_context(Process(command))
        until(lambda: node.is_linked_to(0), "it founds a pool")
        page = stage.open_text(node, "plan")
        process.kill()
        page.until_text(".editor-state", "Offline")
        page.write("plan", "unsaved")
        page.fill("textbox", "Id of a text to open or to begin", "other")
        page.press("Enter")
        page.until_written("")
        stack.enter_context(Process(command))
        page.until_saved()
        until(lambda: page.js(f"fetch({json.dumps(doc_path(stage.collection, 'plan'))}).then((answer) => answer.text())") == "unsaved", "it has gone in")
        while stage.tabs:
            stage.tabs.pop().close()
    stage.forgive(node.url)


@test
def three_editors_side_by_side_write_one_text(stage):
    tab = stage.open(stage.nodes[0], "side&text=plan", 1500, 900)
    tab.click("button", "Text")
    frames = tab.frames()
    pages = [frames[f"The node {node.name}"].until_ready() for node in stage.nodes]
    for page in pages:
        page.until_saved()
        page.until(lambda: page.js("document.querySelectorAll('.person').length") == 2, "the two others are here, and nobody else")
    for page, words in zip(pages, ("one ", "two ", "three ")):
        page.write("plan", words)
        for other in pages:
            other.until(lambda: words in other.written(), "it is everywhere")
    assert [page.written() for page in pages] == ["one two three "] * 3
    assert tab.js("location.search").endswith("&view=text"), tab.js("location.search")


# ---- For everyone ----


def open_every_control(stage, node, **more):
    """A page with every kind of control open at once: form, editor, conflict, question, fault, receipt, cut."""
    for id in ("conflict", "editor", "question", "row"):
        node.put(stage.collection, id, {"text": "x" * 90, "list": list(range(60))})
    page = stage.open_ready(node, **more)
    page.until(lambda: len(page.rows()) == 4, "the documents are there")
    page.save("row", '{"text": "a receipt"}')
    page.until_text("#receipt", "Saved")
    page.edit("editor", "{")
    page.press("Enter", ctrl=True)
    page.edit("conflict", "1")
    node.put(stage.collection, "conflict", "word " * 60)
    page.until(lambda: page.has("button", "Take theirs"), "the conflict is shown")
    page.click("button", "Delete question")
    page.click("button", "Add document")
    page.click("button", "Cut links")
    page.until_text("#links", "This node is cut off.")
    return page


@test
def every_control_has_a_name_for_those_who_cannot_see_it(stage):
    page = open_every_control(stage, stage.nodes[0])
    side = stage.open(stage.nodes[1], "side")
    frame = side.frames()["The node ben"].until_ready()
    roles = {"button", "textbox", "searchbox", "combobox", "link", "Iframe", "region", "table", "main", "alert", "slider", "application"}
    seen = set()
    for view in (page, side, frame):
        nodes = view.send("Accessibility.getFullAXTree", frameId=view.frame)["nodes"]
        for node in nodes:
            role = node.get("role", {}).get("value")
            # An alert is read out, the main part is found by its role: they need no name.
            if node["ignored"] or role not in roles:
                continue
            seen.add(role)
            named = node.get("name", {}).get("value", "").strip()
            assert named or role in ("main", "alert"), f"a {role} without a name: {node}"
    assert seen == roles, f"not met: {roles - seen}"


@test
def a_page_360_pixels_wide_needs_no_scrolling_sideways(stage):
    page = open_every_control(stage, stage.nodes[0], width=360, height=740)
    page.until(lambda: len(page.log()) > 3, "the log is there")
    wide = page.js(
        "[...document.querySelectorAll('body *')].filter((element) => element.checkVisibility() && "
        "!element.closest('.unseen, .skip, thead, svg') && element.getBoundingClientRect().right > 360.5)"
        ".map((element) => element.outerHTML.slice(0, 120))"
    )
    assert wide == [], wide
    assert page.js("document.documentElement.scrollWidth") == 360
    assert page.js("document.documentElement.clientWidth") == 360


@test
def nothing_moves_when_the_links_are_cut_not_even_the_focus(stage):
    for width in (360, 1400):
        page = stage.open_ready(stage.nodes[0], width=width)
        page.until_text("#links", "Linked to 2 of 2")
        before = page.js("document.querySelector('#main').getBoundingClientRect().top")
        page.click("button", "Cut links")
        page.until_text("#links", "This node is cut off.")
        assert page.js("document.querySelector('#main').getBoundingClientRect().top") == before
        assert page.js("document.activeElement.textContent") == "Join links", "the focus stays for the keyboard"
        page.click("button", "Join links")


@test
def no_request_went_to_any_address_but_the_nodes(stage):
    asked = {urllib.parse.urlsplit(url)._replace(path="", query="", fragment="").geturl() for url in stage.browser.asked}
    schemes = {url.split(":")[0] for url in asked}
    # That each was a node's is checked as they come; here, that they were seen at all.
    assert {"http", "ws"} <= schemes <= {"http", "ws", "data"}, asked
    for node in stage.nodes:
        assert {node.url, node.url.replace("http", "ws")} <= asked, asked


# ---- Pictures ----

SHOPPING = {
    "bread": {"what": "Rye bread", "count": 2, "done": False},
    "lamp-oil": {"what": "Lamp oil", "litres": 1.5, "done": True},
    "milk": {"what": "Oat milk", "count": 3, "done": False},
}


def shopping_with_one_cut_off(nodes):
    """A shopping list that two sides of a cut have gone on with."""
    ada, ben, cleo = nodes
    for place, (id, value) in enumerate(SHOPPING.items()):
        nodes[place % 3].put("shopping", id, value)
        until(lambda: all(node.call("GET", "/v1/docs/shopping")["docs"][-1]["id"] == id for node in nodes), "all have it")
    members = lambda: (member for node in nodes for member in node.call("GET", "/v1/pool")["members"])
    until(lambda: all(member["alive"] and member["clock"] != "0" for member in members()), "all have heard of all")
    cleo.cut(True)
    until(lambda: not ada.is_linked_to(2) and not ben.is_linked_to(2), "the links to cleo are gone")
    ada.put("shopping", "tea", {"what": "Assam tea", "grams": 250, "done": False})
    ben.put("shopping", "milk", SHOPPING["milk"] | {"count": 4})
    cleo.put("shopping", "milk", SHOPPING["milk"] | {"done": True})
    cleo.put("shopping", "pears", {"what": "Pears", "count": 6, "done": False})
    until(lambda: len(ben.call("GET", "/v1/docs/shopping")["docs"]) == 4, "ben has ada's")


def until_pictured(tab, side):
    """Waits until the page shows the whole shopping list and the cut, and all its frames do."""
    frames = tab.frames() if side else {}
    # Chromium does not draw a frame that lies below the window.
    in_sight = "[...document.querySelectorAll('iframe')].filter((one) => one.getBoundingClientRect().top < innerHeight)"
    for page in [frames[title] for title in tab.js(f"{in_sight}.map((one) => one.title)")] if side else [tab]:
        page.until_ready()
        page.until(lambda: len(page.rows()) == 4 and len(page.log()) > 5, "the list is shown")
        links = lambda: [cells[0].split()[-1] for cells in page.members().values()]
        page.until(lambda: {"none", "dialling"} & {*links()}, "the cut is shown")


@test
def screenshots_are_taken_of_the_page_in_all_its_looks(stage):
    shopping_with_one_cut_off(stage.nodes)
    for name, node, query, width, height, dark in (
        ("light", 0, "", 1280, 900, False),
        ("dark", 2, "", 1280, 900, True),
        ("narrow", 2, "", 360, 1700, False),
        ("narrow-dark", 0, "", 360, 1700, True),
        ("middle", 0, "", 820, 1200, False),
        ("wide", 0, "", 2200, 1100, False),
        ("side-by-side", 0, "side", 1400, 860, False),
        ("side-by-side-dark", 0, "side", 1800, 1000, True),
        ("side-by-side-narrow", 0, "side", 400, 900, False),
    ):
        tab = stage.open(stage.nodes[node], f"{query}&collection=shopping", width, height, dark)
        until_pictured(tab, query == "side")
        stage.picture(tab, name)
    for name, width, height, dark in (
        ("diagram", 1440, 1280, False),
        ("diagram-dark", 1440, 1280, True),
        ("diagram-wide", 2200, 1180, True),
        ("diagram-middle", 768, 2000, False),
        ("diagram-narrow", 360, 2700, False),
        ("diagram-narrow-dark", 360, 2700, True),
    ):
        tab = stage.open(stage.nodes[2], "collection=shopping", width, height, dark)
        until_pictured(tab, False)
        tab.until_text("#held-back", "ada")
        tab.js("document.querySelector('#diagram canvas').focus()")
        tab.press("ArrowUp")
        tab.press("ArrowLeft")
        tab.until_text(".op-details", "tentative")
        stage.picture(tab, name)
    page = open_every_control(stage, stage.nodes[1], height=1500)
    page.screenshot(SCREENSHOTS / "every-control.png")


MINUTES = "Lamp committee, Tuesday\n\n– Two litres of oil are enough until spring.\n– Wicks: "


def writers(stage_open, nodes, id="minutes", **more):
    """Two who write a text, one of them with something chosen; the pages, ready."""
    pages = [stage_open(node, f"text={id}&collection=evening", **more) for node in nodes]
    for page, name, colour in zip(pages, ("Wren", "Ibex"), ("#8639b3", "#00735c")):
        page.until_ready().until_saved()
        call_writer(page, name, colour)
    wren, ibex = pages
    if not wren.written():
        wren.write(id, MINUTES)
        ibex.until_written(MINUTES)
    ibex.click("textbox", f"Text of {id}")
    ibex.caret(len(MINUTES) - len("– Wicks: ") - 14, len(MINUTES) - len("– Wicks: ") - 1)
    return pages


def call_writer(page, name, colour):
    page.js(f"""[['#user-name', {json.dumps(name)}], ['#user-colour', {json.dumps(colour)}]].forEach(([field, value]) => {{
        const input = document.querySelector(field);
        input.value = value;
        input.dispatchEvent(new Event('change', {{ bubbles: true }}));
    }})""")


@test
def screenshots_are_taken_of_the_editor_in_all_its_looks(stage):
    ada, ben, cleo = stage.nodes
    for node, id, text in ((ada, "songs", "la la"), (ben, "recipes", "Pears in wine")):
        node.put_text("evening", id, text)
    open = lambda node, query, **more: stage.open(node, query, **more)
    wren, ibex = writers(open, (ben, cleo))
    caret = lambda page: page.until(lambda: page.js("document.querySelectorAll('.text-caret').length") == 2, "both carets are shown")
    wren.click("textbox", "Text of minutes")
    wren.caret(len(MINUTES))
    wren.type("t")
    ibex.until_written(MINUTES + "t")
    wren.until_saved()
    for name, width, height, dark in (
        ("editor", 1400, 900, False),
        ("editor-dark", 1400, 900, True),
        ("editor-narrow", 360, 760, False),
        ("editor-narrow-dark", 360, 760, True),
        ("editor-middle", 820, 900, True),
        ("editor-wide", 2200, 1200, False),
    ):
        page = stage.open(ada, "text=minutes&collection=evening", width, height, dark)
        page.until_ready().until_saved()
        caret(page)
        page.js("document.querySelector('#editor').scrollIntoView({ block: 'center' })")
        page.screenshot(SCREENSHOTS / f"{name}.png")
    for name, view, width, height, dark in (
        ("editor-side-by-side", "&view=text", 1500, 900, False),
        ("editor-side-by-side-all", "", 1500, 1000, True),
        ("editor-side-by-side-low", "", 1300, 700, False),
    ):
        tab = stage.open(ada, f"side&text=minutes&collection=evening{view}", width, height, dark)
        for frame in tab.frames().values():
            frame.until_ready().until_saved()
            caret(frame)
        stage.picture(tab, name)
    page.js("document.querySelector('#past-time').focus()")
    page.press("ArrowLeft")
    page.until_text(".editor-notice", "read only")
    page.screenshot(SCREENSHOTS / "editor-past.png")
    ben.delete("evening", "minutes")
    wren.until_text(".editor-notice", "was deleted")
    wren.js("document.querySelector('#editor').scrollIntoView({ block: 'center' })")
    wren.screenshot(SCREENSHOTS / "editor-deleted.png")
    page.click("button", "Back to now")
    page.click("button", "Begin anew")
    ada.cut(True)
    page.until_text("#editor-hint", "This node is cut off.")
    page.screenshot(SCREENSHOTS / "editor-cut.png")


# ---- The reference ----


def open_reference(stage, hash="", width=1400, height=900, dark=False):
    page = Page.open(stage.browser, f"{stage.nodes[0].url}/docs{hash}", width, height, dark)
    stage.tabs.append(page)
    page.until_text("#operations", "Schemas")
    return page


@test
def the_reference_shows_every_operation_and_a_line_for_curl_that_works(stage):
    page = open_reference(stage)
    description = stage.nodes[0].call("GET", "/openapi.json")
    operations = {says["operationId"]: says for path in description["paths"].values() for says in path.values()}
    shown = page.js("[...document.querySelectorAll('details.operation')].map((each) => each.id)")
    assert sorted(shown) == sorted(operations), shown
    links = page.js("[...document.querySelectorAll('#contents a')].map((each) => each.hash.slice(1))")
    assert sorted(links) == sorted(operations), links
    lines = page.js("[...document.querySelectorAll('.curl code')].map((each) => each.textContent)")
    assert len(lines) == len([says for says in operations.values() if "101" not in says["responses"]]), lines
    stage.nodes[0].put("notes", "shopping", {"done": False})
    for words in ("PUT", "/v1/docs/notes/shopping'", "/v1/tx", "/v1/collections"):
        line = next(line for line in lines if words in line)
        status = subprocess.run(["sh", "-c", f"{line} -s -o /dev/null -w '%{{http_code}}'"], capture_output=True, text=True)
        assert status.stdout in ("200", "201"), (line, status)
    targets = page.js("[...document.querySelectorAll('a[href^=\"#schema-\"]')].filter((each) => !document.getElementById(each.hash.slice(1))).length")
    assert targets == 0, "a link leads to no schema"
    stage.nodes[0].delete("notes", "shopping")
    stage.nodes[0].delete("notes", "lamp")


@test
def the_reference_is_used_with_the_keyboard_and_by_links(stage):
    page = open_reference(stage, "#patchDocument")
    page.until(lambda: page.js("document.getElementById('patchDocument').open"), "the operation named is open")
    page.until_text("#patchDocument", "application/json-patch+json")
    page.until_text("#patchDocument", "patch-failed")
    page.js("document.querySelector('#getPool summary').focus()")
    page.press("Enter")
    page.until(lambda: page.js("document.getElementById('getPool').open"), "Enter opens it")
    messages = page.js("fetch(document.querySelector('.ways a[href$=\".md\"]').href).then((answer) => answer.text())")
    assert messages.startswith("# WebSocket messages"), messages[:80]
    for name, width, dark in (("reference", 1400, False), ("reference-dark", 1400, True), ("reference-narrow", 360, False), ("reference-narrow-dark", 360, True)):
        page = open_reference(stage, "#putDocument", width=width, dark=dark)
        page.until(lambda: page.js("document.getElementById('putDocument').open"), "the operation named is open")
        assert page.js("document.documentElement.scrollWidth") <= width, f"{name} is wider than its window"
        page.screenshot(SCREENSHOTS / f"{name}.png")


SUPPER = "Supper on Friday\n\nFirst: soup\nThen: pears with walnuts\nTo drink:"


def take_picture(program):
    """docs/page.png: three nodes side by side, one of them cut off, and somebody writing at each."""
    with contextlib.ExitStack() as stack:
        nodes = stack.enter_context(demo(program))
        browser = Browser(stack, {node.url for node in nodes})
        nodes[0].put_text("evening", "supper", SUPPER)
        until(lambda: all(node.call("GET", "/v1/docs/evening")["docs"] for node in nodes), "all have the text")
        shopping_with_one_cut_off(nodes)
        tab = Page.open(browser, f"{nodes[0].url}/?side&view=text&collection=evening&text=supper", 1500, 1200, False)
        frames = tab.frames()
        wren, ibex, finch = pages = [frames[f"The node {node.name}"].until_ready() for node in nodes]
        for page, name, colour in zip(pages, ("Wren", "Ibex", "Finch"), ("#8639b3", "#00735c", "#b3261e")):
            page.until_saved()
            call_writer(page, name, colour)
        finch.write("supper", " and cheese", at=SUPPER.index("\nTo drink"))
        finch.write("supper", " a red wine")
        for words in (" and", " honey"):
            wren.write("supper", words, at=wren.written().index("\nTo drink"))
            ibex.until(lambda: wren.written() == ibex.written(), "it is on the other page")
            ibex.write("supper", {" and": " elder", " honey": "berry juice"}[words])
            wren.until(lambda: wren.written() == ibex.written(), "it is on the other page")
        start = ibex.written().index("pears")
        ibex.caret(start, start + len("pears"))
        for page in pages:
            page.until_saved()
            page.until(lambda: len(page.log()) > 8, "the log is shown")
        # Only who has the focus has a caret.
        wren.until(lambda: wren.js("document.querySelectorAll('.text-caret').length") == 1, "the other's caret is shown")
        finch.until_text("#links", "This node is cut off.")
        tab.until_text(".diagram-count", "operations")
        # By events, since a click would take the focus out of the frame. The diagram glides to the present.
        for key in ("End", "+", "+", "+"):
            tab.js(f"document.querySelector('#diagram canvas').dispatchEvent(new KeyboardEvent('keydown', {{ key: {json.dumps(key)} }}))")
        tab.until(lambda: pixels(tab, "node-1", "node")["count"] > 200, "the diagram has ben's operations")
        time.sleep(2)
        place = ROOT / "docs" / "page.png"
        tab.screenshot(place)
        print(f"{place}: {place.stat().st_size // 1000} kB")
        assert place.stat().st_size < 400_000 and not browser.troubles, browser.troubles


# ---- Running ----


def run(function, stage):
    """Runs one test; returns whether it passed."""
    begun = time.monotonic()
    sentence = function.__name__.replace("_", " ")
    stage.begin()
    stage.browser.troubles.clear()
    failure = None
    try:
        function(stage)
    except Exception:
        failure = traceback.format_exc()
        show(stage, function.__name__)
    try:
        stage.end()
    except Exception:
        failure = failure or traceback.format_exc()
    if not failure and stage.browser.troubles:
        failure = "the browser's record is not clean:\n" + "\n".join(stage.browser.troubles)
    print(f"{'FAILED' if failure else 'passed'} {time.monotonic() - begun:5.1f} s  {sentence}", flush=True)
    if failure:
        print(failure, flush=True)
    return not failure


def show(stage, name):
    """Prints what each tab shows, and saves a picture of it."""
    for number, tab in enumerate(stage.tabs, 1):
        place = SCREENSHOTS / f"failed-{name}-{number}.png"
        with contextlib.suppress(Exception):
            tab.screenshot(place)
            lines = [line for line in tab.js("document.body.innerText").splitlines() if line.strip()]
            print(f"--- tab {number}, {tab.js('location.href')}, see {place}:", *lines[:LINES_SHOWN_MAX], "---", sep="\n")
    for trouble in stage.browser.troubles:
        print(f"the browser's record: {trouble}")


def build():
    """The program with today's page in it. Built as `cargo test` does, so that neither undoes the other's work."""
    command = ["cargo", "test", "--quiet", "--all-features", "--no-run", "--test", "processes"]
    subprocess.run(command, cwd=ROOT, check=True)
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "lamplight"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", help="a lamplight to test, instead of the one built here")
    parser.add_argument("--picture", action="store_true", help="make docs/page.png instead")
    parser.add_argument("words", nargs="*", metavar="WORD", help="run only tests whose names hold one of these")
    args = parser.parse_args()
    # As Ctrl-C does: the processes started here are ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    program = str(args.program or build())
    if args.picture:
        return take_picture(program)
    chosen = [each for each in TESTS if not args.words or any(word in each.__name__ for word in args.words)]
    with contextlib.ExitStack() as stack:
        nodes = stack.enter_context(demo(program))
        browser = Browser(stack, {node.url for node in nodes})
        stage = Stage(program, browser, nodes)
        passed = sum([run(each, stage) for each in chosen])
    print(f"{passed} passed, {len(chosen) - passed} failed")
    sys.exit(passed != len(chosen) or not chosen)


if __name__ == "__main__":
    main()
