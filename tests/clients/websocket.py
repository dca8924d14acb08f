"""Both ends of a WebSocket: `serve PORT` sends back what it hears, `call URL` says and checks a hundred messages."""

import asyncio
import os
import sys

import websockets

MESSAGES = 100


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def serve(port):
    async with websockets.serve(echo, "", port, max_size=None):
        await asyncio.Future()


async def call(url):
    async with websockets.connect(url, proxy=None, max_size=None) as connection:
        for number in range(MESSAGES):
            message = os.urandom(number * 1000) if number % 2 else f"message {number}"
            await connection.send(message)
            answer = await connection.recv()
            assert answer == message, f"message {number} came back as another"
        latency = await asyncio.wait_for(await connection.ping(), 5)
        assert latency >= 0
    print(f"{MESSAGES} messages, closed with {connection.close_code}")


asyncio.run(serve(int(sys.argv[2])) if sys.argv[1] == "serve" else call(sys.argv[2]))
