"""An echo server on Python websockets, for clients of other makes.

/echo                    every message comes back
/close?code=C&reason=R   the server closes with that

`id=NAME` in the query names a connection: how it ended is printed as `ended NAME CODE REASON`. Of the subprotocols that
are offered it takes `superchat` alone.
"""

import asyncio
import signal
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

LARGEST_MESSAGE = 64 * 1024 * 1024


async def answer(socket):
    target = urlsplit(socket.request.path)
    query = {name: values[0] for name, values in parse_qs(target.query).items()}
    if target.path == "/close":
        await socket.close(int(query["code"]), query.get("reason", ""))
    try:
        async for message in socket:
            await socket.send(message)
    except ConnectionClosed:
        pass  # How it ended is told below.
    await socket.wait_closed()
    print("ended", query.get("id"), socket.close_code, socket.close_reason, flush=True)


def choose_subprotocol(_socket, offered):
    return "superchat" if "superchat" in offered else None


async def main():
    options = {"max_size": LARGEST_MESSAGE, "select_subprotocol": choose_subprotocol}
    async with serve(answer, "127.0.0.1", 0, **options) as server:
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        print("listening on", server.sockets[0].getsockname()[1], flush=True)
        await ended.wait()


asyncio.run(main())
