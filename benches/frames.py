#!/usr/bin/env python3
"""How smoothly the page draws while 200 operations a second arrive and its diagram holds 10,000: frames a second of headless
Chromium, with the diagram in sight, and the time between frames. Beside them the same page while nothing arrives, for a
browser on a busy machine, or one without a graphics card, is not at 60 by itself.

target/venv/bin/python benches/frames.py [--program target/release/lamplight]
"""

import argparse
import contextlib
import json
import pathlib
import sys
import threading
import time

import websocket

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
import browser as page_tests  # noqa: E402

OPS = 10_000
OPS_PER_S = 200
SECONDS = 10

# Resolves to the milliseconds between frames, and the longest tasks of the page, over so many seconds.
MEASURE = """new Promise((tell) => {
  const frames = [], tasks = [];
  const watch = new PerformanceObserver((list) => list.getEntries().forEach((one) => tasks.push(one.duration)));
  watch.observe({ entryTypes: ["longtask"] });
  let last = performance.now();
  const end = last + SECONDS * 1000;
  const step = (now) => {
    frames.push(now - last);
    last = now;
    if (now < end) requestAnimationFrame(step); else { watch.disconnect(); tell({ frames, tasks }); }
  };
  requestAnimationFrame(step);
})""".replace("SECONDS", str(SECONDS))


def write(node, count, per_second=None):
    """Writes so many documents over a WebSocket, as fast as they go or at a rate; among 50 ids, as a live table has them."""
    socket = websocket.create_connection(f"ws://127.0.0.1:{node.port}/v1/ws")
    began = time.monotonic()
    with contextlib.closing(socket):
        for serial in range(count):
            command = {"put": {"collection": "frames", "id": f"row-{serial % 50}", "value": {"n": serial}}}
            socket.send(json.dumps({"type": "write", "id": str(serial), "commands": [command]}))
            if per_second:
                time.sleep(max(0, began + serial / per_second - time.monotonic()))
            # Its receipt, which comes after those of the writes before it.
            while (answer := json.loads(socket.recv()))["id"] != str(serial):
                pass
            assert answer["type"] == "receipt", answer


def tell(title, measured):
    frames = sorted(measured["frames"][1:])
    at = lambda share: frames[min(len(frames) - 1, int(len(frames) * share))]
    fps = 1000 * len(frames) / sum(frames)
    over = sum(1 for one in frames if one > 25)
    print(f"{title:28} {fps:5.1f} fps, between frames p50 {at(.5):.1f} p95 {at(.95):.1f} p99 {at(.99):.1f} "
          f"max {frames[-1]:.0f} ms, {over} of {len(frames)} late, {len(measured['tasks'])} tasks over 50 ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/lamplight")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        nodes = stack.enter_context(page_tests.demo(args.program))
        chromium = page_tests.Browser(stack, {node.url for node in nodes})
        for node in nodes:
            write(node, OPS // 3 + 100)
        page = page_tests.Page.open(chromium, f"{nodes[0].url}/?collection=frames", 1400, 900, False).until_ready()
        page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "no-preference"}])
        page_tests.until_in_diagram(page, OPS)
        page.js("document.querySelector('#diagram').scrollIntoView()")
        tell("nothing arrives", page.js(MEASURE))
        writers = [threading.Thread(target=write, args=(node, OPS_PER_S * (SECONDS + 4) // 3, OPS_PER_S / 3)) for node in nodes]
        for writer in writers:
            writer.start()
        time.sleep(2)
        tell(f"{OPS_PER_S} operations a second", page.js(MEASURE))
        for writer in writers:
            writer.join()


if __name__ == "__main__":
    main()
