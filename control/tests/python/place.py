"""The server under test and what is behind it, as the environment tells: S2CS (host:port), S2CS_CA, S2DS_SOCKET, TOKEN_*."""

import json
import os
import socket
import time
import uuid

import grpc

import wire

ALICE, BOB, ADMIN = (os.environ.get(f"TOKEN_{name}", "") for name in ("ALICE", "BOB", "ADMIN"))
# What a client waits for the answer of req once hello was answered.
PATIENCE = 5
# For what has no limit of its own; nothing is judged by it.
LONG = 60


def as_bytes(message):
    return message


class Client:
    """A SciStream client: one TLS channel, one token, messages as bytes."""

    def __init__(self, token=ALICE, **options):
        with open(os.environ["S2CS_CA"], "rb") as ca:
            credentials = grpc.ssl_channel_credentials(ca.read())
        # Channels of one address share a connection unless told otherwise.
        options = {"grpc.use_local_subchannel_pool": 1, **options}
        self.channel = grpc.secure_channel(os.environ["S2CS"], credentials, options=list(options.items()))
        self.metadata = () if token is None else (("authorization", token),)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def start(self, method, message, timeout=LONG):
        """Calls without waiting."""
        path = f"/scistream.Control/{method}"
        call = self.channel.unary_unary(path, request_serializer=as_bytes, response_deserializer=as_bytes)
        return call.future(message, metadata=self.metadata, timeout=timeout)

    def call(self, method, message):
        return self.start(method, message).result()

    def refusal(self, method, message):
        """The error that a call has to end with: its code and its sentence."""
        return refusal(self.start(method, message))

    def hello(self, uid, targets=(), role="PROD"):
        """Says hello as an application controller does: again while there is no such session."""
        return patiently(lambda: self.call("hello", wire.hello(uid, targets, role)))

    def reserve(self, uid, targets, role="PROD", num_conn=1, rate=0):
        """req and hello; returns the listeners."""
        req = self.start("req", wire.request(uid, role, num_conn, rate))
        self.hello(uid, targets)
        return wire.texts(req.result(timeout=PATIENCE), 1)

    def open(self, uid, targets, role="PROD", num_conn=1, rate=0):
        """A whole session as s2uc opens it; returns the listeners."""
        listeners = self.reserve(uid, targets, role, num_conn, rate)
        self.call("update", wire.update(uid, targets, role))
        return listeners

    def release(self, uid):
        return self.call("release", wire.release(uid))


def refusal(future):
    try:
        answer = future.result()
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError(f"it was answered with {answer!r} and should have been refused")


def patiently(call):
    """Calls until there is such a session: req may be on its way still."""
    end = time.monotonic() + LONG
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND or time.monotonic() > end:
                raise
            time.sleep(0.02)


def until(what, condition):
    """Waits until something is so that nobody reports."""
    end = time.monotonic() + LONG
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"it never came to be that {what}")
        time.sleep(0.02)


def uid():
    return str(uuid.uuid1())


def flows():
    """The sessions' flows in the forwarder: its own word."""
    with socket.socket(socket.AF_UNIX) as s, s.makefile("rw") as lines:
        s.connect(os.environ["S2DS_SOCKET"])
        for line in (
            {"service": "scistream-s2ds", "version": 1, "program": "conformance"},
            {"id": 1, "op": "flow_list"},
        ):
            lines.write(json.dumps(line) + "\n")
            lines.flush()
            answer = json.loads(lines.readline())
    return answer["ok"]["flows"]
