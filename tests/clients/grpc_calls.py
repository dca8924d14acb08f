"""A client of the `grpc` server (tests/src/bin/grpc.rs) by Google's own library: prints what became of each call as JSON."""

import json
import sys

import grpc

TURNS = 50


def encode(text):
    """A google.protobuf.StringValue of up to 127 bytes."""
    data = text.encode()
    return b"\x0a" + bytes([len(data)]) + data if data else b""


def decode(message):
    return message[2:].decode()


def main():
    channel = grpc.insecure_channel(sys.argv[1])
    who = channel.unary_unary("/weft.test.Echo/Who", encode, decode)
    chat = channel.stream_stream("/weft.test.Echo/Chat", encode, decode)
    said = {}

    def outcome(name, call):
        try:
            said[name] = call()
        except grpc.RpcError as error:
            said[name] = f"{error.code().name}: {error.details()}"

    def turns():
        words = [str(turn) for turn in range(TURNS)]
        return list(chat(iter(words))) == words

    def metadata():
        _, call = who.with_call("", metadata=(("x-request-id", "7"),))
        return dict(call.initial_metadata()).get("server")

    outcome("unary", lambda: who("") != "")
    outcome("turns", turns)
    outcome("metadata", metadata)
    outcome("late", lambda: who("", timeout=0.3, metadata=(("x-late", "1"),)))
    outcome("aborted", lambda: who("", metadata=(("x-abort", "1"),)))
    outcome("denied", lambda: channel.unary_unary("/weft.test.Secret/Who", encode, decode)(""))
    outcome("unknown", lambda: channel.unary_unary("/weft.test.Echo/Nothing", encode, decode)(""))
    # A call that the client gives up has no effect on those beside it.
    given_up = chat(iter(lambda: "x", None))
    next(given_up)
    given_up.cancel()
    outcome("after", lambda: who("") != "")
    print(json.dumps(said))


main()
