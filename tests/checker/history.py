"""What happened in a round, in the order in which it became known: a list of plain records, also written to a file."""

import json
import threading
import time


class History:
    def __init__(self, path):
        self.records, self.lock, self.began = [], threading.Lock(), time.monotonic()
        self.file = open(path, "w", buffering=1)

    def now(self):
        return round(time.monotonic() - self.began, 4)

    def add(self, kind, **values):
        with self.lock:
            record = {"n": len(self.records), "type": kind, "t": self.now(), **values}
            self.records.append(record)
            self.file.write(json.dumps(record) + "\n")
        return record

    def close(self):
        self.file.close()


def load(path):
    with open(path) as file:
        return [json.loads(line) for line in file]
