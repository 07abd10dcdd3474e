//! `s2uc` from outside, against control servers that note what they are asked.
#![allow(clippy::unwrap_used, clippy::panic)]

mod gateway;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use control::proto::gateway::{
    CloseRequest, DrainRequest, GetRequest, ListRequest, OpenRequest, Protocol, RenewRequest, Role,
    WatchRequest,
};
use control::proto::scistream::{Hello, Release, Request, UpdateTargets};
use gateway::{Fake, Shown};
use prost::Message;
use serde_json::{Value, json};
use tonic::Code;

const MOCK: &str = "4f8583bc-a4d3-11ee-9fd6-034d1fcbd7c3";

/// Bytes of the protocol page, for one connection, rate 10000 and target 127.0.0.1:7100.
const REQUEST: &str =
    "0a2434663835383362632d613464332d313165652d396664362d303334643166636264376333120450524f44180120904e";
const HELLO: &str = "0a2434663835383362632d613464332d313165652d396664362d303334643166636264376333120e3132372e302e302e313a373130301a0450524f44";
const RELEASE: &str = "0a2434663835383362632d613464332d313165652d396664362d303334643166636264376333";

fn hex(message: &impl Message) -> String {
    message.encode_to_vec().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A user with an own configuration directory.
struct User {
    home: tempfile::TempDir,
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Ran {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }

    /// Asserts the exit code and that the message has all these words.
    fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in: {}", self.err);
        }
    }
}

impl User {
    fn new() -> User {
        User { home: tempfile::tempdir().unwrap() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_s2uc"));
        for name in ["S2UC_TOKEN", "S2UC_SERVER_CERT", "S2UC_CLIENT_CERT", "S2UC_CLIENT_KEY", "SSL_CERT_FILE"]
        {
            command.env_remove(name);
        }
        command.env("XDG_CONFIG_HOME", self.home.path()).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    /// Runs with success.
    fn good(&self, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.out, ran.err);
        ran
    }

    /// Runs at a server, whose certificate is given.
    fn at(&self, fake: &Fake, args: &[&str]) -> Ran {
        self.run(&[args, &["--s2cs", &fake.at(), "--server_cert", fake.ca().to_str().unwrap()]].concat())
    }

    fn login(&self, fake: &Fake, token: &str) -> Ran {
        let at = fake.at();
        let mut child = self
            .command(&["login", "--s2cs", &at, "--server-cert", fake.ca().to_str().unwrap()])
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
        Ran::of(child.wait_with_output().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.home.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn logins(&self) -> PathBuf {
        self.home.path().join("scistream/logins")
    }
}

/// A user who is logged in at two gateways.
struct Stream {
    user: User,
    producer: Fake,
    consumer: Fake,
}

impl Stream {
    fn new() -> Stream {
        let stream = Stream { user: User::new(), producer: Fake::start(1), consumer: Fake::start(2) };
        assert_eq!(stream.user.login(&stream.producer, "producers").code, 0);
        assert_eq!(stream.user.login(&stream.consumer, "consumers").code, 0);
        stream
    }

    fn open_args(&self, further: &[&str]) -> Vec<String> {
        let (producer, consumer) = (self.producer.at(), self.consumer.at());
        let args = [
            &["open", "--producer-gateway", &producer, "--consumer-gateway", &consumer][..],
            &["--target", "10.20.0.5:7000", "--from", "10.10.0.0/16", "--uid", "run 42"],
            further,
        ];
        args.concat().into_iter().map(str::to_owned).collect()
    }

    fn open(&self, further: &[&str]) -> Ran {
        let args = self.open_args(further);
        self.user.run(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn uri(&self) -> String {
        format!("scistream://{}/{}/run%2042", self.producer.at(), self.consumer.at())
    }
}

fn interrupt(child: &Child) {
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
}

#[test]
fn an_inbound_request_makes_the_calls_of_the_protocol() {
    let (user, fake) = (User::new(), Fake::start(1));
    user.login(&fake, "tok en\n");
    for spelling in ["_", "-"] {
        let num_conn = format!("--num{spelling}conn");
        let args = ["inbound-request", "--s2cs", &fake.at(), &num_conn, "1"];
        let remote = format!("--remote{spelling}ip");
        let ports = format!("--receiver{spelling}ports=7100");
        let ran = user.good(&[&args[..], &[&remote, "127.0.0.1", &ports, "--mock", "True"]].concat());
        assert_eq!(ran.out, "Listeners: ['127.0.0.1:5100']\n");
        assert!(ran.err.contains(&format!("s2uc release --s2cs {} {MOCK}", fake.at())), "{}", ran.err);
    }
    let requests: Vec<_> = fake.sent::<Request>("req").iter().map(hex).collect();
    assert_eq!(requests, [REQUEST; 2]);
    assert!(fake.sent::<Hello>("hello").iter().all(|hello| hex(hello) == HELLO));
    assert!(fake.sent::<UpdateTargets>("update").iter().all(|update| hex(update) == HELLO));
    // The raw token, without "Bearer".
    assert!(
        fake.calls().iter().all(|call| call.authorization.as_deref() == Some("tok en")),
        "{:?}",
        fake.calls()
    );
}

#[test]
fn hello_is_said_again_until_the_request_is_there() {
    let (user, fake) = (User::new(), Fake::start(1));
    fake.fail("hello", 3, Code::NotFound, "there is no such session");
    let args = ["inbound-request", "--remote_ip", "::1", "--receiver_ports", "5,6", "--rate", "0", "--json"];
    let ran = user.at(&fake, &args);
    let shown = ran.json();
    let uid = shown["uid"].as_str().unwrap();
    assert_eq!(
        shown,
        json!({ "uid": uid, "role": "PROD", "server": fake.at(), "listeners": ["127.0.0.1:5100"], "targets": ["[::1]:5", "[::1]:6"] })
    );
    assert_eq!(fake.sent::<Hello>("hello").len(), 4);
    assert!(!fake.methods().contains(&"release"));
    assert_eq!(uid.len(), 36);
    assert_eq!(fake.sent::<Request>("req")[0].num_conn, 5);
}

#[test]
fn an_outbound_request_says_hello_as_a_producer() {
    let (user, fake) = (User::new(), Fake::start(2));
    let ran = user.at(&fake, &["outbound-request", "--num_conn=2", MOCK, "192.0.2.1:5100,192.0.2.1:5101"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "Listeners: ['127.0.0.1:5100']\n"), "{}", ran.err);
    let targets = vec!["192.0.2.1:5100".to_owned(), "192.0.2.1:5101".to_owned()];
    let (cons, prod) = ("CONS".to_owned(), "PROD".to_owned());
    let uid = MOCK.to_owned();
    assert_eq!(
        fake.sent::<Request>("req"),
        [Request { uid: uid.clone(), role: cons.clone(), num_conn: 2, rate: 10000 }]
    );
    assert_eq!(
        fake.sent::<Hello>("hello").last(),
        Some(&Hello { uid: uid.clone(), prod_listeners: targets.clone(), role: prod })
    );
    assert_eq!(
        fake.sent::<UpdateTargets>("update"),
        [UpdateTargets { uid, remote_listeners: targets, role: cons }]
    );
}

#[test]
fn a_producers_request_waits_for_the_application_controller() {
    let (user, fake) = (User::new(), Fake::start(1));
    let child = user
        .command(&["prod-req", "--num_conn", "1", "--mock", "true", "--s2cs", &fake.at()])
        .env("S2UC_SERVER_CERT", fake.ca())
        .spawn()
        .unwrap();
    fake.wait_for("req");
    let ran = user.at(&fake, &["hello", MOCK, "--role", "PROD", "--targets", "127.0.0.1:7100"]);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (0, "Sending Prod listeners...\nListeners: []\n"),
        "{}",
        ran.err
    );
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.out.as_str()), (0, "Listeners: ['127.0.0.1:5100']\n"), "{}", ran.err);
    assert!(ran.err.contains(&format!("Session {MOCK} waits for hello")), "{}", ran.err);
    assert_eq!(hex(&fake.sent::<Hello>("hello")[0]), HELLO);
    assert_eq!(hex(&fake.sent::<UpdateTargets>("update")[0]), HELLO);

    let ran = user.at(&fake, &["release", MOCK, "--json"]);
    assert_eq!(ran.json(), json!({ "uid": MOCK, "server": fake.at(), "released": true }));
    assert_eq!(hex(&fake.sent::<Release>("release")[0]), RELEASE);
}

#[test]
fn an_application_controller_tries_so_many_times() {
    let (user, fake) = (User::new(), Fake::start(1));
    let hello = ["hello", "nobody", "--targets", "10.0.0.1:1", "--role=CONS", "--interval", "1ms"];
    user.at(&fake, &hello).failed(4, &["there is no such session"]);
    assert_eq!(fake.sent::<Hello>("hello").len(), 5);
    user.at(&fake, &[&hello[..], &["--tries", "2"]].concat()).failed(4, &[]);
    let sent = fake.sent::<Hello>("hello");
    assert_eq!((sent.len(), sent[6].role.as_str()), (7, "CONS"));
}

#[test]
fn a_request_that_fails_half_way_is_released() {
    let user = User::new();
    let args = ["inbound-request", "--remote_ip", "10.0.0.1", "--receiver_ports", "1", "--uid", "u"];

    let fake = Fake::start(1);
    fake.fail("update", 1, Code::PermissionDenied, "target 10.0.0.1:1 is not allowed");
    user.at(&fake, &args).failed(3, &["refuses", "target 10.0.0.1:1 is not allowed", &fake.at()]);
    assert_eq!(fake.sent::<Release>("release"), [Release { uid: "u".into() }]);

    // A request that waits is given up.
    let fake = Fake::start(1);
    fake.fail("hello", 1, Code::ResourceExhausted, "no rate is left");
    user.at(&fake, &args).failed(6, &["no rate is left"]);
    fake.wait_for("cancelled");
    assert!(fake.methods().contains(&"release"));

    // What could not be released is told, with the command that does it.
    let fake = Fake::start(1);
    fake.fail("update", 1, Code::Internal, "broken");
    fake.fail("release", 1, Code::Unavailable, "the forwarder is away");
    let ran = user.at(&fake, &[&args[..], &["--json"]].concat());
    let ca = fake.ca();
    let command = format!("s2uc release --s2cs {} --server-cert {} u", fake.at(), ca.display());
    ran.failed(1, &["broken", "may remain", "the forwarder is away", &command]);
    assert_eq!(ran.json()["error"]["kind"], "failed");
    assert_eq!(ran.json()["left"][0]["command"], json!(command));
}

#[test]
fn a_refused_request_releases_nothing() {
    let (user, fake) = (User::new(), Fake::start(1));
    fake.fail("req", 1, Code::AlreadyExists, "session u is there already");
    let args = ["inbound-request", "--remote_ip", "10.0.0.1", "--receiver_ports", "1", "--uid", "u"];
    user.at(&fake, &args).failed(1, &["session u is there already"]);
    assert!(!fake.methods().contains(&"release"), "{:?}", fake.methods());
}

#[test]
fn an_interrupted_request_is_released() {
    let (user, fake) = (User::new(), Fake::start(1));
    let (at, ca) = (fake.at(), fake.ca());
    let child =
        user.command(&["prod-req", "--uid", "u", "--s2cs", &at]).env("S2UC_SERVER_CERT", ca).spawn().unwrap();
    fake.wait_for("req");
    interrupt(&child);
    Ran::of(child.wait_with_output().unwrap()).failed(1, &["interrupted"]);
    assert_eq!(fake.sent::<Release>("release"), [Release { uid: "u".into() }]);
    fake.wait_for("cancelled");
}

#[test]
fn a_stream_is_opened_for_the_consumers_gateway_alone() {
    let stream = Stream::new();
    let ran = stream
        .open(&["--conns", "4", "--rate", "10G", "--for", "2h", "--label", "run=42", "--proto", "quic"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let common = OpenRequest {
        uid: "run 42".into(),
        protocol: Protocol::Udp.into(),
        connections: 4,
        rate_mbps: 10_000,
        lease: Some(prost_types::Duration { seconds: 7200, nanos: 0 }),
        labels: [("run".to_owned(), "42".to_owned())].into(),
        ..OpenRequest::default()
    };
    assert_eq!(
        stream.producer.sent::<OpenRequest>("open"),
        [OpenRequest {
            role: Role::Producer.into(),
            targets: vec!["10.20.0.5:7000".into()],
            // Of the WAN port, and of the IP version that the listener can have.
            sources: vec!["192.0.2.2/32".into()],
            ..common.clone()
        }]
    );
    assert_eq!(
        stream.consumer.sent::<OpenRequest>("open"),
        [OpenRequest {
            role: Role::Consumer.into(),
            targets: vec!["192.0.2.1:5100".into()],
            sources: vec!["10.10.0.0/16".into()],
            ..common
        }]
    );
    let token = |fake: &Fake| fake.calls()[0].authorization.clone();
    assert_eq!(token(&stream.producer).as_deref(), Some("producers"));
    assert_eq!(token(&stream.consumer).as_deref(), Some("consumers"));
    for part in
        ["connect to   10.2.0.1:5100\n", &stream.uri(), "(1h 59m", "s2uc close scistream://", " active,"]
    {
        let two_hours = part == "(1h 59m" && ran.out.contains("(2h from now)");
        assert!(ran.out.contains(part) || two_hours, "{part:?} is not in: {}", ran.out);
    }
}

#[test]
fn a_stream_is_seen_renewed_drained_and_closed_by_its_uri() {
    let stream = Stream::new();
    let opened = stream.open(&["--json", "--target=[fd00::1]:1,10.20.0.6:2"]).json();
    let uri = stream.uri();
    assert_eq!(opened["uri"], json!(uri));
    assert_eq!(opened["uid"], "run 42");
    assert_eq!(opened["connect"], json!(["10.2.0.1:5100", "10.2.0.1:5101", "10.2.0.1:5102"]));
    assert_eq!(opened["expires"], opened["consumer"]["session"]["expires"]);

    let seen = stream.user.good(&["status", &uri, "--json"]).json();
    assert_eq!(seen["uri"], json!(uri));
    let producer = &seen["producer"];
    let times = (&producer["session"]["created"], &producer["session"]["expires"]);
    let traffic = json!({
        "connections": 2, "admitted": 0, "refused": 0, "packets_to_target": 0, "bytes_to_target": 4096,
        "packets_to_client": 0, "bytes_to_client": 0,
    });
    let listeners: Vec<_> = ["10.20.0.5:7000", "[fd00::1]:1", "10.20.0.6:2"]
        .iter()
        .enumerate()
        .map(|(i, target)| {
            let address = format!("192.0.2.1:{}", 5100 + i);
            json!({ "address": address, "target": target, "flow": format!("s2cs:1:{i}"), "traffic": traffic })
        })
        .collect();
    assert_eq!(
        *producer,
        json!({
            "gateway": stream.producer.at(), "state": "active", "error": null,
            "session": {
                "uid": "run 42", "role": "producer", "state": "active", "protocol": "tcp", "owner": "alice@site",
                "listeners": listeners, "sources": ["192.0.2.2/32"], "connections": null, "rate_mbps": null,
                "limit_mbps": 10_000, "created": times.0, "expires": times.1, "labels": {}, "path": "wan",
            },
        })
    );
    assert!(humantime::parse_rfc3339(times.1.as_str().unwrap()).is_ok());

    stream.user.good(&["renew", &uri, "--for", "90m"]);
    let renewed = stream.consumer.sent::<RenewRequest>("renew");
    let lease = Some(prost_types::Duration { seconds: 5400, nanos: 0 });
    assert_eq!(renewed, [RenewRequest { uid: "run 42".into(), lease, owner: String::new() }]);
    stream.user.good(&["renew", &uri]);
    assert_eq!(stream.producer.sent::<RenewRequest>("renew")[1].lease, None);

    let drained = stream.user.good(&["drain", &uri, "--json"]).json();
    assert_eq!(drained["consumer"]["state"], "draining");
    assert_eq!(stream.producer.sent::<DrainRequest>("drain").len(), 1);

    let closed = stream.user.good(&["close", &uri, "--json"]).json();
    assert_eq!(
        (&closed["producer"]["state"], &closed["consumer"]["state"]),
        (&json!("closed"), &json!("closed"))
    );
    assert!(stream.producer.sessions().is_empty() && stream.consumer.sessions().is_empty());

    // Once more is no failure, but said.
    let ran = stream.user.good(&["close", &uri]);
    assert_eq!(ran.out.matches(", gone\n").count(), 2, "{}", ran.out);
    stream.user.run(&["status", "--owner", "bob@site", &uri]).failed(4, &["there is no such session"]);
    let asked = stream.producer.sent::<GetRequest>("get");
    assert_eq!(asked[0].owner, "");
    assert_eq!(asked[1], GetRequest { uid: "run 42".into(), owner: "bob@site".into() });
}

#[test]
fn the_consumers_gateway_may_be_named_by_prefixes() {
    let stream = Stream::new();
    let ran = stream.open(&[
        "--gateway-from",
        "203.0.113.0/24",
        "203.0.114.9",
        "--producer-path=wan",
        "--consumer-path=lan",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let asked = stream.producer.sent::<OpenRequest>("open");
    assert_eq!(asked[0].sources, ["203.0.113.0/24", "203.0.114.9/32"]);
    assert_eq!((asked[0].path.as_str(), asked[0].lease), ("wan", None));
    assert_eq!(stream.consumer.sent::<OpenRequest>("open")[0].path, "lan");
}

#[test]
fn a_stream_that_the_consumers_side_refuses_is_closed_on_the_producers() {
    let stream = Stream::new();
    stream.consumer.fail("open", 1, Code::PermissionDenied, "10.10.0.0/16 is not among your sources");
    let ran = stream.open(&["--json"]);
    ran.failed(3, &["refuses", "10.10.0.0/16 is not among your sources", &stream.consumer.at()]);
    assert_eq!(ran.json()["error"]["kind"], "refused");
    assert_eq!(ran.json()["left"], json!([]));
    assert_eq!(
        stream.producer.sent::<CloseRequest>("close"),
        [CloseRequest { uid: "run 42".into(), owner: String::new() }]
    );
    assert!(stream.producer.sessions().is_empty());
    // A session of that uid there would not be ours.
    assert!(!stream.consumer.methods().contains(&"close"));
}

#[test]
fn what_cannot_be_rolled_back_is_told_with_the_command_that_ends_it() {
    let stream = Stream::new();
    stream.consumer.fail("open", 1, Code::ResourceExhausted, "no listener is free");
    stream.producer.fail("close", 1, Code::Unavailable, "the forwarder is away");
    let command = format!("`s2uc close {}`", stream.uri());
    stream
        .open(&[])
        .failed(6, &["no listener is free", "may remain", &stream.producer.at(), "away", &command]);
    stream.user.good(&["close", &stream.uri()]);
    assert!(stream.producer.sessions().is_empty());
}

#[test]
fn an_interrupted_opening_is_rolled_back() {
    let stream = Stream::new();
    stream.consumer.hang("open");
    let args = stream.open_args(&[]);
    let child = stream.user.command(&args.iter().map(String::as_str).collect::<Vec<_>>()).spawn().unwrap();
    stream.consumer.wait_for("open");
    interrupt(&child);
    Ran::of(child.wait_with_output().unwrap()).failed(1, &["interrupted"]);
    assert!(stream.producer.sessions().is_empty());
    // Whether it was opened at the consumer's gateway cannot be known: it is closed there, too.
    assert!(stream.consumer.methods().contains(&"close"));
    stream.consumer.wait_for("cancelled");
}

#[test]
fn both_sides_are_closed_even_when_one_fails() {
    let stream = Stream::new();
    stream.open(&[]);
    stream.producer.fail("close", 1, Code::Unavailable, "the forwarder is away");
    let ran = stream.user.run(&["close", &stream.uri(), "--json"]);
    ran.failed(5, &["the forwarder is away"]);
    let shown = ran.json();
    assert_eq!(shown["consumer"]["state"], "closed");
    assert_eq!(shown["producer"]["error"]["kind"], "unreachable");
    assert!(stream.consumer.sessions().is_empty());
}

#[test]
fn sessions_are_listed_and_watched() {
    let stream = Stream::new();
    stream.open(&[]);
    let (uri, at) = (stream.uri(), stream.consumer.at());
    let both = stream.user.good(&["list", &uri, "--json"]).json();
    assert_eq!(both["gateways"].as_array().unwrap().len(), 2);
    assert_eq!(both["gateways"][0]["sessions"][0]["role"], "producer");
    let one = stream.user.good(&["list", "--s2cs", &at, "--all"]);
    assert!(one.out.starts_with("GATEWAY"), "{}", one.out);
    assert!(one.out.contains("run 42  consumer  active  alice@site  10.2.0.1:5100"), "{}", one.out);
    assert_eq!(stream.consumer.sent::<ListRequest>("list")[1], ListRequest { all: true });

    // Until it has ended on both sides.
    let watched = stream.user.good(&["watch", &uri, "--json"]);
    let events: Vec<Value> = watched.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ends: Vec<_> = events.iter().filter(|event| event["session"]["state"] == "ended").collect();
    assert_eq!((events.len(), ends.len()), (4, 2), "{}", watched.out);
    assert_eq!((&ends[0]["before"], &ends[0]["reason"]), (&json!("active"), &json!("its lease ended")));
    assert_eq!(stream.producer.sent::<WatchRequest>("watch")[0].uid, "run 42");

    stream.producer.forget();
    stream.user.run(&["watch", &uri]).failed(4, &["there is no such session"]);
    stream.user.run(&["list", &uri, "--s2cs", &at]).failed(2, &["--s2cs"]);
}

#[test]
fn a_login_is_kept_for_its_user_alone() {
    let (user, fake) = (User::new(), Fake::start(1));
    let ran = user.login(&fake, "s3cret\n");
    assert_eq!(ran.code, 0, "{}", ran.err);
    let file = user.logins().join(format!("{}.toml", fake.at()));
    assert!(ran.out.contains(file.to_str().unwrap()), "{}", ran.out);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(&user.logins())), (0o600, 0o700));

    let ran = user.good(&["check-auth", "--s2cs", &fake.at()]);
    assert!(ran.out.contains("accepts the token: s2cs 0.1.0, forwarding, 101 listeners free"), "{}", ran.out);
    assert_eq!(fake.calls()[0].authorization.as_deref(), Some("s3cret"));
    assert!(!format!("{}{}", ran.out, ran.err).contains("s3cret"));

    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let ran = user.good(&["check-auth", "--s2cs", &fake.at(), "--json"]);
    assert!(ran.err.contains("others can read the token in"), "{}", ran.err);
    assert_eq!(
        (&ran.json()["accepted"], &ran.json()["gateway"]["paths"][0]["capacity_mbps"]),
        (&json!(true), &json!(100_000))
    );

    // A broken file is not quoted.
    fs::write(&file, "token = s3cret\n").unwrap();
    let ran = user.run(&["check-auth", "--s2cs", &fake.at()]);
    ran.failed(1, &["is broken", "s2uc login"]);
    assert!(!ran.err.contains("s3cret"), "{}", ran.err);

    assert_eq!(user.good(&["logout", "--s2cs", &fake.at(), "--json"]).json()["removed"], true);
    assert!(user.good(&["logout", "--s2cs", &fake.at()]).out.contains("Nothing is stored"));
    user.login(&fake, "INVALID_TOKEN\n").failed(1, &["INVALID_TOKEN stands for no token"]);
    user.login(&fake, "").failed(1, &["there is no token"]);
}

#[test]
fn who_has_no_token_says_so_and_is_told_to_log_in() {
    let (user, fake) = (User::new(), Fake::start(1));
    fake.fail("get_gateway", 1, Code::Unauthenticated, "there is no token");
    let login = format!("`s2uc login --s2cs {}`", fake.at());
    user.at(&fake, &["check-auth"]).failed(3, &[&fake.at(), "there is no token", &login]);
    assert_eq!(fake.calls()[0].authorization.as_deref(), Some("INVALID_TOKEN"));
}

#[test]
fn a_token_is_taken_from_the_option_then_the_environment_then_the_login() {
    let (user, fake) = (User::new(), Fake::start(1));
    user.login(&fake, "stored");
    let file = user.file("token", "from-file\n");
    let at = fake.at();
    let check = ["check-auth", "--s2cs", &at];
    user.good(&[&check[..], &["--token", file.to_str().unwrap()]].concat());
    let output = user.command(&check).env("S2UC_TOKEN", "from-env").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    user.good(&check);
    let shown: Vec<_> = fake.calls().into_iter().filter_map(|call| call.authorization).collect();
    assert_eq!(shown, ["from-file", "from-env", "stored"]);

    // A scope has a login of its own.
    user.good(&["login", "--scope", "c0ffee", "--token-file", file.to_str().unwrap()]);
    user.at(&fake, &["check-auth", "--scope", "c0ffee"]);
    assert_eq!(fake.calls()[3].authorization.as_deref(), Some("from-file"));
    user.run(&["check-auth", "--scope", "../x"]).failed(2, &["cannot name a login"]);
    user.run(&[&check[..], &["--token", "/nowhere"]].concat()).failed(1, &["/nowhere", "cannot be read"]);
}

#[test]
fn tokens_and_certificates_differ_by_side() {
    let stream = Stream::new();
    let user = User::new();
    let (mine, theirs) = (user.file("p", "one"), user.file("c", "two"));
    let (ca, other_ca) = (stream.producer.ca(), stream.consumer.ca());
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let further = [
        "--producer-ca".to_owned(),
        text(&ca),
        "--consumer-ca".to_owned(),
        text(&other_ca),
        "--producer-token".to_owned(),
        text(&mine),
        "--consumer-token".to_owned(),
        text(&theirs),
    ];
    let args = stream.open_args(&further.each_ref().map(String::as_str));
    let ran = user.good(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(stream.producer.calls()[0].authorization.as_deref(), Some("one"));
    assert_eq!(stream.consumer.calls()[0].authorization.as_deref(), Some("two"));
    // What is printed to close it works as it stands.
    let close = ran.out.lines().find_map(|line| line.trim().strip_prefix("close with   s2uc ")).unwrap();
    user.good(&close.split(' ').collect::<Vec<_>>());
    assert!(stream.producer.sessions().is_empty() && stream.consumer.sessions().is_empty());
}

#[test]
fn a_server_is_trusted_by_its_ca_its_own_certificate_or_the_systems() {
    let user = User::new();
    let fake = Fake::showing(1, Shown::SelfMade);
    assert_eq!(user.at(&fake, &["check-auth"]).code, 0);
    let fake = Fake::start(1);
    let output =
        user.command(&["check-auth", "--s2cs", &fake.at()]).env("SSL_CERT_FILE", fake.ca()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn a_client_shows_its_own_certificate_when_it_is_given() {
    let (user, fake) = (User::new(), Fake::start(1));
    assert_eq!(user.at(&fake, &["check-auth"]).code, 0);
    let (certificate, key) = (fake.file("client.pem"), fake.file("client.key"));
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let ran = user.at(&fake, &["check-auth", "--client-cert", certificate, "--client-key", key]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(fake.calls().iter().map(|call| call.certificate).collect::<Vec<_>>(), [false, true]);
    user.at(&fake, &["check-auth", "--client-cert", key, "--client-key", key]).failed(1, &["--client-cert"]);
}

#[test]
fn an_untrusted_server_gets_no_token() {
    let (user, fake, other) = (User::new(), Fake::start(1), Fake::start(2));
    let other_ca = other.ca();
    let ran = user.run(&["check-auth", "--s2cs", &fake.at(), "--server_cert", other_ca.to_str().unwrap()]);
    ran.failed(5, &[&fake.at(), "is not trusted", "--server-cert"]);

    let fake = Fake::showing(1, Shown::Signed(&["gw.example.org"]));
    user.at(&fake, &["check-auth"]).failed(5, &["not for \"localhost\"", "gw.example.org"]);
    let fake = Fake::showing(1, Shown::SelfMade);
    let by_address = fake.at().replace("localhost", "127.0.0.1");
    let ca = fake.ca();
    let args = ["check-auth", "--s2cs", &by_address, "--server_cert", ca.to_str().unwrap()];
    user.run(&args).failed(5, &["not for \"127.0.0.1\"", "localhost"]);
    assert!(fake.calls().is_empty());

    let empty = user.file("empty.pem", "");
    user.run(&["check-auth", "--server_cert", empty.to_str().unwrap()])
        .failed(1, &["empty.pem", "no certificate"]);
    user.run(&["check-auth", "--server_cert", "/nowhere"]).failed(1, &["/nowhere"]);
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let user = User::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("127.0.0.1:{}", free.local_addr().unwrap().port());
    drop(free);
    let ca = Fake::start(1).ca();
    let fake = Fake::start(1);
    let cert = fake.ca();
    user.run(&["list", "--s2cs", &at, "--server-cert", cert.to_str().unwrap()])
        .failed(5, &[&at, "cannot be reached", "refused", "firewall"]);
    // The certificate went with its server's directory.
    user.run(&["list", "--s2cs", &at, "--server-cert", ca.to_str().unwrap()]).failed(1, &["cannot be read"]);

    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("127.0.0.1:{}", plain.local_addr().unwrap().port());
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = plain.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        std::io::copy(&mut stream, &mut std::io::sink())
    });
    user.run(&["list", "--s2cs", &at, "--server-cert", cert.to_str().unwrap()])
        .failed(5, &[&at, "does not speak TLS"]);
    _ = answering.join().unwrap();
}

#[test]
fn every_code_of_the_server_has_its_exit_code() {
    let (user, fake) = (User::new(), Fake::start(1));
    for (code, exit, words) in [
        (Code::InvalidArgument, 2, "no such role"),
        (Code::Unauthenticated, 3, "s2uc login"),
        (Code::PermissionDenied, 3, "refuses"),
        (Code::NotFound, 4, "no such role"),
        (Code::Unavailable, 5, "try again later"),
        (Code::ResourceExhausted, 6, "has no room"),
        (Code::Unimplemented, 1, "older s2cs"),
        (Code::Unknown, 1, "no such role"),
        (Code::Internal, 1, "no such role"),
    ] {
        fake.fail("list", 1, code, "no such role");
        user.at(&fake, &["list"]).failed(exit, &[words, &fake.at()]);
    }
    // A server cannot drive the terminal.
    fake.fail("list", 1, Code::Internal, "\u{1b}[2J\n");
    let ran = user.at(&fake, &["list"]);
    assert!(ran.err.contains("\\u{1b}[2J\\n"), "{:?}", ran.err);
}

#[test]
fn wrong_usage_names_what_is_wrong() {
    let user = User::new();
    for (args, words) in [
        (&["close", "scistream://a:1/b"][..], "at character 17"),
        (&["close"], "URI"),
        (&["release", ""], "the uid is empty"),
        (&["check-auth", "--s2cs", "gw"], "the port is missing"),
        (&["inbound-request", "--remote_ip", "x", "--receiver_ports", "1"], "invalid value 'x'"),
        (&["inbound-request", "--remote_ip", "::1", "--receiver_ports", "0"], "invalid value '0'"),
        (
            &["inbound-request", "--remote_ip", "::1", "--receiver_ports", "1", "--num_conn", "0"],
            "invalid value '0'",
        ),
        (&["outbound-request", "u", "10.0.0.1"], "10.0.0.1"),
        (&["open", "--rate", "fast"], "10G"),
        (&["renew", "scistream://a:1/b:2/u", "--for", "0"], "at least one second"),
        (&["check-auth", "--client-cert", "x"], "--client-key"),
    ] {
        user.run(args).failed(2, &[words]);
    }
    let target = ["--target", "10.0.0.1:1"];
    let same = ["open", "--producer-gateway", "gw:1", "--consumer-gateway", "GW:1"];
    user.run(&[&same[..], &target].concat()).failed(2, &["both gateways are gw:1"]);
}
