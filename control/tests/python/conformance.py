"""What SciStream's clients depend on and what was wrong with the server they knew, tried with gRPC's own Python library.

Each class needs a fresh server; control/tests/conformance.rs starts them and runs one class at a time. Nothing is judged by a clock:
that a call waits is shown by other calls that overtake it.
"""

import os
import socket
import ssl
import unittest

import grpc

import wire
from place import ADMIN, ALICE, BOB, PATIENCE, Client, flows, patiently, refusal, uid, until

Code = grpc.StatusCode
# The page's example: what `--mock True` sends.
GOLDEN_UID = "4f8583bc-a4d3-11ee-9fd6-034d1fcbd7c3"
GOLDEN_REQUEST = bytes.fromhex(
    "0a2434663835383362632d613464332d313165652d396664362d303334643166636264376333120450524f44180120904e"
)
GOLDEN_HELLO = bytes.fromhex(
    "0a2434663835383362632d613464332d313165652d396664362d303334643166636264376333"
    "120e3132372e302e302e313a373130301a0450524f44"
)
GOLDEN_RELEASE = bytes.fromhex("0a2434663835383362632d613464332d313165652d396664362d303334643166636264376333")
GOLDEN_RESPONSE = bytes.fromhex("0a0e3132372e302e302e313a35313030120e3132372e302e302e313a37313030")
# Hosts behind the forwarder's two ports.
PRODUCER = "10.81.0.9:5074"
REMOTE = "10.82.0.9:5100"
# Where policy lets old clients' peers come from.
WAN_SOURCES, LAN_SOURCES = ["10.82.0.0/24"], ["10.81.0.0/24"]


class Case(unittest.TestCase):
    longMessage = True

    def setUp(self):
        self.alice = self.enterContext(Client(ALICE))
        self.bob = self.enterContext(Client(BOB))
        self.admin = self.enterContext(Client(ADMIN))

    def refused(self, code, method, message, client=None):
        """It is refused with this code and a sentence; returns the sentence."""
        found, sentence = (client or self.alice).refusal(method, message)
        self.assertEqual(found, code, sentence)
        self.assertRegex(sentence, r"\w+ \w+", "that is no sentence")
        self.assertLess(len(sentence), 1000)
        self.assertTrue(sentence.isprintable(), sentence)
        return sentence

    def serves(self):
        """The server does what it should: a session opens, relays, and goes."""
        name = uid()
        (listener,) = self.alice.open(name, [PRODUCER])
        self.assertEqual([f["target"] for f in flows() if f["listen"] == listener], [PRODUCER])
        self.alice.release(name)
        self.assertEqual([f for f in flows() if f["listen"] == listener], [])


class Wire(Case):
    def test_messages_are_the_golden_bytes(self):
        self.assertEqual(wire.request(GOLDEN_UID, rate=10000), GOLDEN_REQUEST)
        self.assertEqual(wire.hello(GOLDEN_UID, ["127.0.0.1:7100"]), GOLDEN_HELLO)
        self.assertEqual(wire.update(GOLDEN_UID, ["127.0.0.1:7100"]), GOLDEN_HELLO)
        self.assertEqual(wire.release(GOLDEN_UID), GOLDEN_RELEASE)
        self.assertEqual(wire.response(["127.0.0.1:5100"], ["127.0.0.1:7100"]), GOLDEN_RESPONSE)

    def test_a_session_of_golden_bytes_is_answered_byte_for_byte(self):
        req = self.alice.start("req", GOLDEN_REQUEST)
        said = patiently(lambda: self.alice.call("hello", GOLDEN_HELLO))
        self.assertEqual(said, wire.app_response("Sending Prod listeners..."))
        answer = req.result(timeout=PATIENCE)
        (listener,) = wire.texts(answer, 1)
        self.assertRegex(listener, r"^10\.82\.0\.1:\d+$")
        self.assertEqual(answer, wire.response([listener], ["127.0.0.1:7100"]))
        # The host itself is none of the targets that policy names.
        self.refused(Code.PERMISSION_DENIED, "update", GOLDEN_HELLO)
        said = self.alice.call("update", wire.update(GOLDEN_UID, [PRODUCER]))
        self.assertEqual(said, wire.response([listener], [PRODUCER]))
        self.assertEqual(self.alice.call("release", GOLDEN_RELEASE), b"")
        self.assertEqual(flows(), [])

    def test_fields_that_are_not_known_are_passed_over(self):
        name = uid()
        req = self.alice.start("req", wire.request(name) + wire.text(99, "later") + wire.number(98, 7))
        self.alice.hello(name, [PRODUCER])
        self.assertEqual(len(wire.texts(req.result(timeout=PATIENCE), 1)), 1)
        self.alice.release(name)

    def test_a_method_that_does_not_exist_is_unimplemented(self):
        self.assertEqual(self.alice.refusal("Req", GOLDEN_REQUEST)[0], Code.UNIMPLEMENTED)


class Session(Case):
    def test_listener_i_relays_to_target_i_modulo_the_targets(self):
        name, targets = uid(), ["10.81.0.9:5074", "10.81.0.9:5075"]
        listeners = self.alice.open(name, targets, num_conn=5)
        self.assertEqual(len(set(listeners)), 5)
        relays = {f["listen"]: f["target"] for f in flows()}
        self.assertEqual([relays[l] for l in listeners], [targets[i % 2] for i in range(5)])
        self.alice.release(name)

    def test_update_again_moves_the_listeners(self):
        name = uid()
        listeners = self.alice.open(name, [PRODUCER], num_conn=2)
        self.assertEqual(
            self.alice.call("update", wire.update(name, ["10.81.0.10:1"])),
            wire.response(listeners, ["10.81.0.10:1"]),
        )
        self.assertEqual([f["target"] for f in flows()], ["10.81.0.10:1"] * 2)
        self.alice.release(name)

    def test_the_consumers_hello_has_the_producers_role(self):
        # A quirk of s2uc outbound-request: the session's role is the one in req.
        name = uid()
        req = self.alice.start("req", wire.request(name, "CONS"))
        said = self.alice.hello(name, ["127.0.0.1:7100"])
        self.assertEqual(said, wire.app_response("Sending Prod listeners..."))
        (listener,) = wire.texts(req.result(timeout=PATIENCE), 1)
        self.assertRegex(listener, r"^10\.81\.0\.1:\d+$")
        self.assertEqual(
            self.alice.call("update", wire.update(name, [REMOTE], "CONS")), wire.response([listener], [REMOTE])
        )
        self.assertEqual([(f["listen"], f["target"], f["from"]) for f in flows()], [(listener, REMOTE, LAN_SOURCES)])
        self.alice.release(name)

    def test_targets_in_the_consumers_hello_mean_nothing(self):
        for targets in ([], ["nowhere:5074"], ["198.51.100.7:1"], [":0", "\n"]):
            with self.subTest(targets):
                name = uid()
                self.alice.reserve(name, targets, "CONS")
                self.alice.call("update", wire.update(name, [REMOTE], "CONS"))
                self.alice.release(name)

    def test_hello_of_another_role_is_told_the_listeners(self):
        name = uid()
        req = self.alice.start("req", wire.request(name, "CONS", num_conn=2))
        said = self.alice.hello(name, role="CONS")
        answer = req.result(timeout=PATIENCE)
        listeners = wire.texts(answer, 1)
        self.assertEqual(answer, wire.response(listeners))
        self.assertEqual(said, wire.app_response("Sending listeners...", listeners))
        self.alice.release(name)

    def test_the_same_uid_serves_at_one_gateway_once(self):
        name = uid()
        self.alice.open(name, [PRODUCER])
        self.refused(Code.ALREADY_EXISTS, "req", wire.request(name))
        self.alice.release(name)
        self.alice.open(name, [PRODUCER])
        self.alice.release(name)

    def test_a_raw_token_and_the_usual_bearer_both_work(self):
        name = uid()
        self.alice.open(name, [PRODUCER])
        with Client(f"Bearer {ALICE}") as usual:
            usual.release(name)
        self.assertEqual(flows(), [])

    def test_nobody_is_served_without_an_identity(self):
        # INVALID_TOKEN is what a client sends that has none.
        for token in (None, "INVALID_TOKEN", "Bearer INVALID_TOKEN", "", "Bearer", ALICE[:-1], ALICE + "x", "Basic " + ALICE):
            with self.subTest(token=token), Client(token) as nobody:
                for method, message in (
                    ("req", wire.request(uid())),
                    ("hello", wire.hello("none", [PRODUCER])),
                    ("update", wire.update("none", [PRODUCER])),
                    ("release", wire.release("none")),
                ):
                    sentence = self.refused(Code.UNAUTHENTICATED, method, message, nobody)
                    self.assertNotIn(ALICE, sentence)

    def test_there_is_no_service_without_tls(self):
        with grpc.insecure_channel(os.environ["S2CS"]) as channel:
            call = channel.unary_unary(
                "/scistream.Control/release", request_serializer=bytes, response_deserializer=bytes
            )
            code, _ = refusal(call.future(GOLDEN_RELEASE, metadata=(("authorization", ALICE),)))
        self.assertEqual(code, Code.UNAVAILABLE)


class Waiting(Case):
    """The blocking rule."""

    def test_req_waits_for_hello_and_for_nothing_else(self):
        waiting, other = uid(), uid()
        req = self.alice.start("req", wire.request(waiting))
        # A whole session comes and goes; update and release of the one that waits change nothing for others.
        self.serves()
        self.alice.open(other, [PRODUCER])
        self.assertFalse(req.done(), "req was answered before hello")
        self.alice.hello(waiting, [PRODUCER])
        self.assertEqual(wire.texts(req.result(timeout=PATIENCE), 2), [PRODUCER])
        self.alice.release(waiting)
        self.alice.release(other)

    def test_update_before_hello_is_refused_and_req_waits_on(self):
        name = uid()
        req = self.alice.start("req", wire.request(name))
        until(
            "update finds the session",
            lambda: self.alice.refusal("update", wire.update(name, [PRODUCER]))[0] == Code.FAILED_PRECONDITION,
        )
        self.assertFalse(req.done())
        self.assertEqual(flows(), [])
        self.alice.hello(name, [PRODUCER])
        self.assertEqual(wire.texts(req.result(timeout=PATIENCE), 2), [PRODUCER])
        self.alice.release(name)

    def test_hello_update_and_release_overtake_hundreds_of_pending_requests(self):
        # Upstream ten of them starved the server. Each on the same connection and on connections of their own.
        for clients in ([self.alice], [self.enterContext(Client(ALICE)) for _ in range(10)]):
            with self.subTest(connections=len(clients)):
                pending = [(uid(), clients[i % len(clients)]) for i in range(300)]
                reqs = [client.start("req", wire.request(name)) for name, client in pending]
                self.serves()
                self.assertFalse(any(r.done() for r in reqs))
                # Helloes come in another order than the requests did.
                for (name, client), req in reversed(list(zip(pending, reqs))):
                    client.hello(name, [PRODUCER])
                    self.assertEqual(wire.texts(req.result(timeout=PATIENCE), 2), [PRODUCER])
                for name, client in pending:
                    client.release(name)

    def test_a_pending_request_fails_promptly_when_its_session_is_released(self):
        name = uid()
        req = self.alice.start("req", wire.request(name))
        patiently(lambda: self.alice.release(name))
        self.assertNotIn(refusal(req)[0], (Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.INTERNAL))
        self.alice.open(name, [PRODUCER])
        self.alice.release(name)

    def test_a_client_that_gives_up_leaves_nothing(self):
        name = uid()
        req = self.alice.start("req", wire.request(name))
        until(
            "update finds the session",
            lambda: self.alice.refusal("update", wire.update(name, [PRODUCER]))[0] == Code.FAILED_PRECONDITION,
        )
        req.cancel()
        until(
            "the session is gone",
            lambda: self.alice.refusal("update", wire.update(name, [PRODUCER]))[0] == Code.NOT_FOUND,
        )
        self.serves()

    def test_a_connection_that_breaks_leaves_nothing(self):
        name = uid()
        with Client(ALICE) as client:
            # A call that nobody holds is cancelled.
            _req = client.start("req", wire.request(name))
            until(
                "update finds the session",
                lambda: client.refusal("update", wire.update(name, [PRODUCER]))[0] == Code.FAILED_PRECONDITION,
            )
        until(
            "the session is gone",
            lambda: self.alice.refusal("update", wire.update(name, [PRODUCER]))[0] == Code.NOT_FOUND,
        )
        self.serves()


class Deadlines(Case):
    """A server that waits a second for hello and for update."""

    def test_without_hello_req_fails_and_everything_is_free(self):
        name = uid()
        # The client's own deadline is far away: it is the server's.
        self.refused(Code.DEADLINE_EXCEEDED, "req", wire.request(name))
        self.refused(Code.NOT_FOUND, "hello", wire.hello(name, [PRODUCER]))
        self.alice.open(name, [PRODUCER])
        self.alice.release(name)

    def test_without_update_the_session_goes(self):
        name = uid()
        self.alice.reserve(name, [PRODUCER])
        until(
            "the session is gone",
            lambda: self.alice.refusal("hello", wire.hello(name, [PRODUCER]))[0] == Code.NOT_FOUND,
        )
        self.refused(Code.NOT_FOUND, "release", wire.release(name))


class Range(Case):
    """A server with a range of four ports."""

    def test_what_is_released_is_free_again(self):
        # Upstream the third session of a range of four got an empty list.
        for _ in range(20):
            name = uid()
            listeners = self.alice.open(name, [PRODUCER], num_conn=4)
            self.assertEqual(len(set(listeners)), 4)
            self.assertEqual(len(flows()), 4)
            self.alice.release(name)
            self.assertEqual(flows(), [])

    def test_an_exhausted_range_is_said_to_be_exhausted(self):
        names = [uid() for _ in range(4)]
        taken = [self.alice.open(name, [PRODUCER])[0] for name in names]
        self.assertEqual(len(set(taken)), 4)
        self.refused(Code.RESOURCE_EXHAUSTED, "req", wire.request(uid()))
        self.refused(Code.RESOURCE_EXHAUSTED, "req", wire.request(uid()), self.bob)
        self.alice.release(names[2])
        last = uid()
        self.assertEqual(self.bob.open(last, [PRODUCER]), [taken[2]])
        self.bob.release(last)
        for name in names[:2] + names[3:]:
            self.alice.release(name)

    def test_failed_sessions_free_everything(self):
        for _ in range(12):
            name = uid()
            req = self.alice.start("req", wire.request(name, num_conn=4))
            self.alice.hello(name, [PRODUCER])
            req.result(timeout=PATIENCE)
            self.refused(Code.INVALID_ARGUMENT, "update", wire.update(name, ["nonsense"]))
            self.alice.release(name)
        self.serves()

    def test_a_request_that_does_not_fit_takes_nothing(self):
        self.refused(Code.RESOURCE_EXHAUSTED, "req", wire.request(uid(), num_conn=5))
        name = uid()
        self.assertEqual(len(self.alice.open(name, [PRODUCER], num_conn=4)), 4)
        self.alice.release(name)


class Apart(Case):
    """Sessions and users do not meet."""

    def test_concurrent_sessions_never_share_a_listener(self):
        # Upstream they bound each other's ports.
        sessions = [(uid(), client) for _ in range(8) for client in (self.alice, self.bob)]
        reqs = [client.start("req", wire.request(name, num_conn=4)) for name, client in sessions]
        for i, (name, client) in enumerate(sessions):
            client.hello(name, [f"10.81.0.9:{6000 + i}"])
        listeners = [wire.texts(req.result(timeout=PATIENCE), 1) for req in reqs]
        updates = [
            client.start("update", wire.update(name, [f"10.81.0.9:{6000 + i}"]))
            for i, (name, client) in enumerate(sessions)
        ]
        for u in updates:
            u.result()
        self.assertEqual(len({l for some in listeners for l in some}), 4 * len(sessions))
        relays = {f["listen"]: f["target"] for f in flows()}
        for i, some in enumerate(listeners):
            self.assertEqual({relays[l] for l in some}, {f"10.81.0.9:{6000 + i}"})
        for name, client in sessions:
            client.release(name)
        self.assertEqual(flows(), [])

    def test_one_session_that_ends_leaves_others_as_they_are(self):
        mine, theirs = uid(), uid()
        self.alice.open(mine, [PRODUCER], num_conn=3)
        kept = self.bob.open(theirs, [PRODUCER], num_conn=3)
        self.alice.release(mine)
        self.assertEqual(sorted(f["listen"] for f in flows()), sorted(kept))
        self.bob.release(theirs)

    def test_a_strangers_session_cannot_be_told_from_none(self):
        # Upstream anyone could release or update anyone's session.
        theirs, waits, none = uid(), uid(), uid()
        self.alice.open(theirs, [PRODUCER])
        pending = self.alice.start("req", wire.request(waits))
        until(
            "the session waits",
            lambda: self.alice.refusal("update", wire.update(waits, [PRODUCER]))[0] == Code.FAILED_PRECONDITION,
        )
        before = flows()
        for method, message in (
            ("update", lambda name: wire.update(name, ["10.81.0.66:1"])),
            ("release", wire.release),
            ("hello", lambda name: wire.hello(name, ["10.81.0.66:1"])),
        ):
            sentences = {
                self.refused(Code.NOT_FOUND, method, message(name), self.bob).replace(name, "UID")
                for name in (theirs, waits, none)
            }
            self.assertEqual(len(sentences), 1, f"{method} tells a stranger's session from none: {sentences}")
        self.assertEqual(flows(), before)
        self.assertFalse(pending.done())
        self.alice.release(waits)
        self.alice.release(theirs)

    def test_an_administrator_may_release_anyones_session(self):
        name = uid()
        self.alice.open(name, [PRODUCER])
        self.admin.release(name)
        self.assertEqual(flows(), [])
        self.refused(Code.NOT_FOUND, "release", wire.release(name))

    def test_sources_are_the_sites_and_never_everybody(self):
        # Old clients name none; upstream nobody looked.
        for role, target, sources in (("PROD", PRODUCER, WAN_SOURCES), ("CONS", REMOTE, LAN_SOURCES)):
            name = uid()
            self.alice.open(name, [target], role)
            self.assertEqual([f["from"] for f in flows()], [sources])
            self.alice.release(name)

    def test_no_flow_is_without_limits(self):
        # A session that is forgotten ends with its lease.
        name = uid()
        self.alice.open(name, [PRODUCER])
        (flow,) = flows()
        self.assertGreater(flow["max_conns"], 0)
        self.alice.release(name)


class Rate(Case):
    """A server whose ports have 10 Gbit/s."""

    def test_rate_is_admitted_against_the_ports_capacity(self):
        # Upstream rate was ignored.
        first, second = uid(), uid()
        self.alice.open(first, [PRODUCER], rate=6000)
        self.refused(Code.RESOURCE_EXHAUSTED, "req", wire.request(uid(), rate=6000))
        self.alice.open(second, [PRODUCER], rate=4000)
        self.refused(Code.RESOURCE_EXHAUSTED, "req", wire.request(uid(), rate=1))
        self.alice.release(first)
        third = uid()
        self.alice.open(third, [PRODUCER], rate=6000)
        for name in (second, third):
            self.alice.release(name)

    def test_the_forwarder_holds_a_session_to_its_rate(self):
        name = uid()
        self.alice.open(name, [PRODUCER], rate=500)
        self.assertEqual([f["rate"] for f in flows()], [500])
        self.alice.release(name)

    def test_what_is_released_while_it_waits_holds_no_rate(self):
        for _ in range(4):
            name = uid()
            req = self.alice.start("req", wire.request(name, rate=9000))
            patiently(lambda: self.alice.release(name))
            refusal(req)
        self.serves()


class Hostile(Case):
    """What nobody should send. It is refused, nothing stays, and the next one is served."""

    def tearDown(self):
        self.assertEqual(flows(), [])
        self.serves()

    def test_uids(self):
        wrong = {
            "empty": "",
            "129 bytes": "x" * 129,
            "a newline": "a\nb",
            "a carriage return and an escape": "a\r\x1b[2Jb",
            "a null": "a\0b",
            "a delete": "a\x7fb",
            "a C1 control": "a\u0085b",
        }
        for what, name in wrong.items():
            with self.subTest(what):
                for method, message in (
                    ("req", wire.request(name)),
                    ("hello", wire.hello(name, [PRODUCER])),
                    ("update", wire.update(name, [PRODUCER])),
                    ("release", wire.release(name)),
                ):
                    self.refused(Code.INVALID_ARGUMENT, method, message)
        # Not even read.
        self.refused(Code.RESOURCE_EXHAUSTED, "req", wire.request("x" * (1 << 20)))

    def test_paths_and_odd_letters_are_uids_like_others(self):
        # Upstream uids became file names.
        for name in ("../../../../tmp/s2cs", "/etc/passwd", "a b", "%s%n", "'; --", "*", "Ünï-çødé", ".", "x" * 128):
            with self.subTest(name):
                self.alice.open(name, [PRODUCER])
                self.assertEqual(len(flows()), 1)
                self.alice.release(name)
                self.assertEqual(flows(), [])
        self.assertFalse(os.path.exists("/tmp/s2cs"))

    def test_text_that_is_not_utf_8(self):
        for method in ("req", "hello", "update", "release"):
            self.refused(Code.INVALID_ARGUMENT, method, wire.text(1, b"\xff\xfe\xfd") + wire.text(2, "PROD"))

    def test_roles(self):
        for role in ("", "prod", "PRODUCER", "PROD ", "CONS\0", "x" * 5000):
            with self.subTest(role[:20]):
                self.refused(Code.INVALID_ARGUMENT, "req", wire.request(uid(), role))

    def test_counts(self):
        for count in (0, -1, -(1 << 31)):
            with self.subTest(count):
                self.refused(Code.INVALID_ARGUMENT, "req", wire.request(uid(), num_conn=count))
        for count in (17, 65_536, (1 << 31) - 1):
            with self.subTest(count):
                code, sentence = self.alice.refusal("req", wire.request(uid(), num_conn=count))
                self.assertIn(code, (Code.PERMISSION_DENIED, Code.RESOURCE_EXHAUSTED, Code.INVALID_ARGUMENT), sentence)

    def test_rates(self):
        for rate in (-1, -(1 << 31)):
            with self.subTest(rate):
                self.refused(Code.INVALID_ARGUMENT, "req", wire.request(uid(), rate=rate))
        code, sentence = self.alice.refusal("req", wire.request(uid(), rate=(1 << 31) - 1))
        self.assertIn(code, (Code.PERMISSION_DENIED, Code.RESOURCE_EXHAUSTED, Code.INVALID_ARGUMENT), sentence)

    def test_targets(self):
        name = uid()
        (listener,) = self.alice.reserve(name, [PRODUCER])
        wrong = {
            "none": [],
            "an empty one": [""],
            "no port": ["10.81.0.9"],
            "port 0": ["10.81.0.9:0"],
            "port 65536": ["10.81.0.9:65536"],
            "a negative port": ["10.81.0.9:-1"],
            "a name": ["producer.example:5000"],
            "two in one": ["10.81.0.9:1,10.81.0.9:2"],
            "IPv6 without brackets": ["fd81::9:5000"],
            "the second of two": [PRODUCER, "10.81.0.9"],
            "a long one": ["x" * 100_000],
            "ten thousand": [PRODUCER] * 10_000,
        }
        for what, targets in wrong.items():
            with self.subTest(what):
                self.refused(Code.INVALID_ARGUMENT, "update", wire.update(name, targets))
                self.assertEqual(flows(), [])
        # Outside of policy, the hosts' own insides, the forwarder itself, everybody, a group, nobody.
        for target in (
            "198.51.100.7:5000", "127.0.0.1:7100", "169.254.169.254:80", "10.82.0.1:5000", "255.255.255.255:1", "224.0.0.1:1",
            "0.0.0.0:1",
        ):
            with self.subTest(target):
                code, sentence = self.alice.refusal("update", wire.update(name, [target]))
                self.assertIn(code, (Code.PERMISSION_DENIED, Code.INVALID_ARGUMENT))
                self.assertIn(target, sentence)
                self.assertEqual(flows(), [])
        # The session survived all that.
        said = self.alice.call("update", wire.update(name, [PRODUCER]))
        self.assertEqual(said, wire.response([listener], [PRODUCER]))
        self.alice.release(name)

    def test_messages_that_are_none(self):
        for what, message in {
            "cut off": GOLDEN_REQUEST[:-1],
            "a length beyond the end": b"\x0a\x7fabc",
            "a varint without end": b"\x18" + b"\xff" * 11,
            "another type of field": wire.number(1, 5),
            "a group": b"\x0b\x0c",
            "noise": bytes(range(256)),
        }.items():
            with self.subTest(what):
                self.refused(Code.INVALID_ARGUMENT, "req", message)

    def test_messages_that_are_too_long(self):
        for size in (5 << 20, 64 << 20):
            self.assertEqual(self.alice.refusal("req", wire.request("x" * size))[0], Code.RESOURCE_EXHAUSTED)

    def test_calls_in_every_other_order(self):
        name = uid()
        self.refused(Code.NOT_FOUND, "hello", wire.hello(name, [PRODUCER]))
        self.refused(Code.NOT_FOUND, "update", wire.update(name, [PRODUCER]))
        self.refused(Code.NOT_FOUND, "release", wire.release(name))
        req = self.alice.start("req", wire.request(name))
        # Again while the first waits.
        until(
            "update finds the session",
            lambda: self.alice.refusal("update", wire.update(name, [PRODUCER]))[0] == Code.FAILED_PRECONDITION,
        )
        self.refused(Code.ALREADY_EXISTS, "req", wire.request(name))
        self.alice.hello(name, [PRODUCER])
        listeners = wire.texts(req.result(timeout=PATIENCE), 1)
        self.alice.call("update", wire.update(name, [PRODUCER]))
        self.assertEqual([f["listen"] for f in flows()], listeners)
        self.alice.release(name)
        self.refused(Code.NOT_FOUND, "release", wire.release(name))
        self.refused(Code.NOT_FOUND, "update", wire.update(name, [PRODUCER]))

    def test_connections_that_say_nothing_or_half_of_something(self):
        host, port = os.environ["S2CS"].rsplit(":", 1)
        context = ssl.create_default_context(cafile=os.environ["S2CS_CA"])
        context.set_alpn_protocols(["h2"])
        held = [socket.create_connection((host, int(port))) for _ in range(100)]
        for i, s in enumerate(held):
            match i % 4:
                case 1:
                    s.sendall(b"\x16\x03\x01\x02\x00")
                case 2:
                    s.sendall(b"PRI * HTTP/2.0\r\n")
                case 3:
                    held[i] = context.wrap_socket(s, server_hostname=host)
                    held[i].sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x40")
        self.serves()
        for s in held:
            s.close()


class Before(Case):
    """A session that outlives the server that made it: this much comes before the server is killed ..."""

    def test_open(self):
        self.alice.open("durable", [PRODUCER], num_conn=3)
        # Half-made when it is killed.
        self.alice.reserve("half", [PRODUCER])


class After(Case):
    """... and this after another was started in its place."""

    def test_it_is_there_and_can_be_changed_and_released(self):
        kept = flows()
        self.assertEqual(len(kept), 3)
        self.refused(Code.ALREADY_EXISTS, "req", wire.request("durable"))
        self.refused(Code.NOT_FOUND, "update", wire.update("half", [PRODUCER]))
        self.refused(Code.NOT_FOUND, "release", wire.release("durable"), self.bob)
        self.alice.call("update", wire.update("durable", ["10.81.0.10:1"]))
        self.assertEqual({f["target"] for f in flows()}, {"10.81.0.10:1"})
        self.assertEqual({f["listen"] for f in flows()}, {f["listen"] for f in kept})
        self.alice.release("durable")
        self.assertEqual(flows(), [])
        self.serves()


if __name__ == "__main__":
    unittest.main(verbosity=2)
