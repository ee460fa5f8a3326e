"""What a Python websockets client tries with an echo server: client.py SCENARIO URL [--ca FILE] [--code C --reason R]

Ends with 1 and the reason if it is not as it should be.
"""

import argparse
import asyncio
import os
import ssl
import sys
from urllib.parse import quote

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

LARGE_MESSAGE = 16 * 1024 * 1024
CLIENTS = 300
MESSAGES = 10


class Client:
    """How to connect, and what to connect to."""

    def __init__(self, options):
        self.options = options
        self.tls = ssl.create_default_context(cafile=options.ca) if options.ca else None

    def open(self, url=None, **more):
        return connect(url or self.options.url, ssl=self.tls, proxy=None, max_size=2 * LARGE_MESSAGE, **more)


async def echoed(socket, message):
    await socket.send(message)
    back = await socket.recv()
    expect(type(back) is type(message), f"the echo is a {type(back).__name__}")
    expect(back == message, f"the echo of {len(message)} differs ({len(back)})")


async def compresses(client):
    """Compressed messages, and one that is too short for it between them."""
    async with client.open() as socket:
        names = [extension.name for extension in socket.protocol.extensions]
        expect(names == ["permessage-deflate"], f"extensions are {names}")
        for message in ["wsgate " * 2000, "short", b"wsgate " * 2000]:
            await echoed(socket, message)


async def sends_large(client):
    """16 MB each way, first as they are, then compressed."""
    for compression in [None, "deflate"]:
        async with client.open(compression=compression) as socket:
            await echoed(socket, os.urandom(LARGE_MESSAGE))
            await echoed(socket, "0123456789abcdef" * (LARGE_MESSAGE // 16))


async def come_together(client):
    """All are open before the first sends; each has its own messages back."""
    sockets = await asyncio.gather(*(client.open(open_timeout=60) for _ in range(CLIENTS)))

    async def talk(who, socket):
        for at in range(MESSAGES):
            await echoed(socket, f"{who} sends {at}")

    await asyncio.gather(*(talk(who, socket) for who, socket in enumerate(sockets)))
    await asyncio.gather(*(socket.close() for socket in sockets))
    codes = {socket.close_code for socket in sockets}
    expect(codes == {1000}, f"close codes are {codes}")


async def sends_fragments(client):
    """A message in fragments comes back whole, with a ping between them answered."""

    async def parts():
        yield "frag"
        yield "mented "
        await (await socket.ping("between"))
        yield "x" * 70_000

    async with client.open(compression=None) as socket:
        await socket.send(parts())
        expect(await socket.recv() == "fragmented " + "x" * 70_000, "the message differs")


async def offers_subprotocols(client):
    """The server takes the one that it knows of those that are offered."""
    async with client.open(subprotocols=["graphql-transport-ws", "superchat", "chat"]) as socket:
        expect(socket.subprotocol == "superchat", f"the subprotocol is {socket.subprotocol}")


async def closes_with(client):
    """What the client closes with comes back from the server."""
    code, reason = client.options.code, client.options.reason
    async with client.open() as socket:
        await echoed(socket, "before")
        await socket.close(code, reason)
        expect_end(socket, code, reason)


async def is_closed_with(client):
    """What the server closes with arrives."""
    code, reason = client.options.code, client.options.reason
    url = f"{client.options.url.removesuffix('echo')}close?code={code}&reason={quote(reason)}"
    async with client.open(url) as socket:
        try:
            expect(False, f"got {await socket.recv()!r}")
        except ConnectionClosed:
            expect_end(socket, code, reason)


def expect_end(socket, code, reason):
    end = (socket.close_code, socket.close_reason)
    expect(end == (code, reason), f"the end is {end}")


def expect(holds, otherwise):
    if not holds:
        sys.exit(otherwise)


SCENARIOS = [
    compresses,
    sends_large,
    come_together,
    sends_fragments,
    offers_subprotocols,
    closes_with,
    is_closed_with,
]


def main():
    scenarios = {scenario.__name__: scenario for scenario in SCENARIOS}
    parser = argparse.ArgumentParser()
    parser.add_argument("scenario", choices=scenarios)
    parser.add_argument("url")
    parser.add_argument("--ca")
    parser.add_argument("--code", type=int)
    parser.add_argument("--reason", default="")
    options = parser.parse_args()
    asyncio.run(scenarios[options.scenario](Client(options)))


main()
