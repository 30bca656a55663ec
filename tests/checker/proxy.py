"""The network between the nodes: a process with one listening port for each node, through which all others reach it.

A node advertises the address of its port here, so each link of the pool passes through this process, and a partition needs no
root. The node that dials is known by its socket: `/proc` says which process has it. Commands come on standard input, one JSON
object a line; each is answered with the line `ok` once it is in effect:

    {"node": {"name": "n0", "listen": 21000, "target": 21001, "pid": 4711}}   a node, or its new process
    {"block": [["n0", "n1"], …], "reset": false}                              the directions in which nothing passes

What is blocked stops silently, as in a network that drops packets: connections stay open and go on when it heals. With
`"reset": true` they are closed. Opening a connection needs both directions.
"""

import asyncio
import json
import os
import sys

CHUNK_BYTES = 64 * 1024
# How long a connection attempt over a blocked link hangs before it fails.
CONNECT_TIMEOUT_S = 5


class Network:
    def __init__(self):
        self.nodes = {}
        self.servers = {}
        self.blocked = set()
        self.links = set()
        self.changed = asyncio.Condition()

    async def add(self, name, listen, target, pid):
        self.nodes[name] = (target, pid)
        if listen not in self.servers:
            handler = lambda reader, writer, name=name: self.accept(name, reader, writer)
            self.servers[listen] = await asyncio.start_server(handler, "127.0.0.1", listen)

    async def block(self, directions, reset):
        self.blocked = {(source, target) for source, target in directions}
        if reset:
            for link in list(self.links):
                if not self.passes(link.source, link.target):
                    link.close()
        async with self.changed:
            self.changed.notify_all()

    def passes(self, source, target):
        return (source, target) not in self.blocked and (target, source) not in self.blocked

    async def wait_open(self, *directions):
        """Waits until nothing blocks any of these directions."""
        if self.blocked.isdisjoint(directions):
            return
        async with self.changed:
            await self.changed.wait_for(lambda: self.blocked.isdisjoint(directions))

    async def accept(self, target, reader, writer):
        source = owner_of(writer.get_extra_info("peername")[1], writer.get_extra_info("sockname")[1], self.nodes)
        if source is None:
            writer.transport.abort()
            return
        link = Link(source, target, writer)
        self.links.add(link)
        try:
            await asyncio.wait_for(self.wait_open((source, target), (target, source)), CONNECT_TIMEOUT_S)
            far_reader, link.far = await asyncio.open_connection("127.0.0.1", self.nodes[target][0])
            there = asyncio.create_task(self.pump(reader, link.far, (source, target)))
            back = asyncio.create_task(self.pump(far_reader, writer, (target, source)))
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            there.cancel()
            back.cancel()
        except (OSError, TimeoutError):
            pass
        finally:
            self.links.discard(link)
            link.close()

    async def pump(self, reader, writer, direction):
        try:
            while data := await reader.read(CHUNK_BYTES):
                await self.wait_open(direction)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass


class Link:
    def __init__(self, source, target, near):
        self.source, self.target, self.near, self.far = source, target, near, None

    def close(self):
        for writer in (self.near, self.far):
            if writer is not None:
                writer.transport.abort()


def owner_of(port, to_port, nodes):
    """Name of the node whose process has the loopback socket from one port to the other; none if it is no node's."""
    wanted = (f"0100007F:{port:04X}", f"0100007F:{to_port:04X}")
    with open("/proc/net/tcp") as table:
        inode = next((row[9] for row in map(str.split, table) if (row[1], row[2]) == wanted), None)
    if inode is None:
        return None
    for name, (_, pid) in nodes.items():
        try:
            for descriptor in os.scandir(f"/proc/{pid}/fd"):
                try:
                    if os.readlink(descriptor.path) == f"socket:[{inode}]":
                        return name
                except OSError:
                    continue
        except OSError:
            continue
    return None


async def main():
    network = Network()
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        command = json.loads(line)
        if "node" in command:
            await network.add(**command["node"])
        else:
            await network.block([tuple(pair) for pair in command["block"]], command["reset"])
        print("ok", flush=True)
    # All links end with the process; there is nothing to put in order.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
