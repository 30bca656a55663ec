#!/usr/bin/env python3
"""The cases of the Autobahn suite for WebSockets, against an echo with the settings of the clients' WebSocket.

They are run by kosoku, which drives Autobahn's own case files (the suite itself asks for Python 2.7). Left out: 9.*, which measures
how fast large messages go, and 12.* and 13.*, which are about compression, that no WebSocket of a node offers.
Usage: tests/autobahn.py ECHO
"""

import asyncio
import subprocess
import sys

from kosoku import FailureError, run_fuzzingclient

LEFT_OUT = ["9.*", "12.*", "13.*"]
# Without the groups that are left out; fewer would say that cases are missing.
CASES = 247
# It may diverge from what a SHOULD of the RFC asks; from nothing else.
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}
GOOD_CLOSE = {"OK", "INFORMATIONAL"}


async def ask(address):
    try:
        return await run_fuzzingclient(address, None, LEFT_OUT)
    except FailureError as failure:
        return failure.results


def main():
    echo = subprocess.Popen(sys.argv[1:2], stdout=subprocess.PIPE, text=True)
    try:
        address = echo.stdout.readline().strip()
        results = asyncio.run(ask(address))
    finally:
        echo.terminate()
        echo.wait()
    bad = [r for r in results if r.behavior.value not in GOOD or r.behavior_close.value not in GOOD_CLOSE]
    for result in bad:
        print(f"FAIL  {result.case_id}: {result.behavior.value}, close {result.behavior_close.value}")
    loose = [result.case_id for result in results if result.behavior.value == "NON-STRICT"]
    print(f"not strict: {', '.join(loose) or 'none'}")
    if len(results) != CASES:
        print(f"FAIL  {len(results)} cases instead of {CASES}")
    print(f"{len(results) - len(bad)} passed, {len(bad) + (len(results) != CASES)} failed")
    return 1 if bad or len(results) != CASES else 0


if __name__ == "__main__":
    sys.exit(main())
