//! The control socket from outside: calls and answers, bad and slow clients, and the socket's file.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use forwarder::api::{ApiError, ErrorCode, Hello, MAX_LINE, Reply, Request, Stats};
use forwarder::config::ServiceConfig;
use forwarder::service::{Handler, MAX_CLIENTS, Patience, Peer, Running, Service, ServiceError};
use serde_json::{Value, json};

/// Answers `stats` with the caller's uid as uptime, a `conn list` with a very long reply, the rest with "not found".
struct Fake;

impl Handler for Fake {
    fn handle(&self, request: Request, peer: &Peer) -> Result<Reply, ApiError> {
        match request {
            Request::Stats => {
                Ok(Reply::Stats { stats: Stats { uptime: peer.uid.into(), ..Stats::default() } })
            }
            Request::ConnectionList { .. } => {
                let message = "x".repeat(8 << 20);
                Err(ApiError { code: ErrorCode::Internal, message })
            }
            other => Err(ApiError { code: ErrorCode::NotFound, message: format!("{other:?}") }),
        }
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    running: Option<Running>,
}

impl Fixture {
    fn new() -> Self {
        Self::patient(Patience::default())
    }

    fn patient(patience: Patience) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let service = Service::bind(&config(&dir.path().join("s"))).unwrap().patience(patience);
        Self { running: Some(service.run(Arc::new(Fake)).unwrap()), dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// A client that has not said hello.
    fn stranger(&self) -> Client {
        let stream = UnixStream::connect(self.path()).unwrap();
        // Only so that a test that would hang fails instead.
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Client { lines: BufReader::new(stream.try_clone().unwrap()), stream }
    }

    fn client(&self) -> Client {
        let mut client = self.stranger();
        client.send(&serde_json::to_string(&Hello::of("test")).unwrap());
        assert_eq!(client.read().unwrap()["service"], "scistream-s2ds");
        client
    }
}

struct Client {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Client {
    fn send(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// The next line; none when the server has closed.
    fn read(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap()),
            // Closed with something of ours unread.
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(e) => panic!("{e}"),
        }
    }

    fn error(&mut self) -> (Value, String) {
        let answer = self.read().unwrap();
        let message = answer["error"]["message"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        (json!([answer["id"], answer["error"]["code"]]), message)
    }

    fn is_served(&mut self) -> bool {
        self.send(r#"{"id":99,"op":"stats"}"#);
        self.read().is_some_and(|a| a["id"] == 99 && a["ok"]["kind"] == "stats")
    }
}

fn config(path: &Path) -> ServiceConfig {
    ServiceConfig { socket: path.to_owned(), ..ServiceConfig::default() }
}

const SHORT: Duration = Duration::from_millis(50);

#[test]
fn calls_are_answered_in_order_with_their_ids_and_the_peers_uid() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    client.send("{\"id\":7,\"op\":\"stats\"}\n{\"id\":3,\"op\":\"flow_show\",\"name\":\"f\"}");
    let first = client.read().unwrap();
    assert_eq!(first["id"], 7);
    assert_eq!(first["ok"]["stats"]["uptime"], nix::unistd::Uid::effective().as_raw());
    let (error, message) = client.error();
    assert_eq!(error, json!([3, "not_found"]));
    assert!(message.contains("\"f\""), "{message}");
}

#[test]
fn a_line_may_come_in_pieces_and_the_client_may_close_its_side() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    for byte in b"{\"id\":1,\"op\":\"stats\"}\n" {
        client.stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(client.read().unwrap()["id"], 1);
    client.send(r#"{"id":2,"op":"stats"}"#);
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read().unwrap()["id"], 2);
    assert_eq!(client.read(), None);
}

#[test]
fn another_version_and_no_hello_are_refused() {
    let fixture = Fixture::new();
    let cases = [
        (
            r#"{"service":"scistream-s2ds","version":999,"program":"new 9"}"#,
            "version",
            "\"new 9\" speaks version 999",
        ),
        (r#"{"service":"other","version":1,"program":"x"}"#, "bad_request", "\"service\":\"scistream-s2ds\""),
        (r#"{"id":1,"op":"stats"}"#, "bad_request", "no hello"),
        ("GET / HTTP/1.1", "bad_request", "no hello"),
        ("", "bad_request", "no hello"),
    ];
    for (line, code, says) in cases {
        let mut client = fixture.stranger();
        client.send(line);
        let (error, message) = client.error();
        assert_eq!(error, json!([null, code]), "{line}");
        assert!(message.contains(says), "{line}: {message}");
        assert_eq!(client.read(), None, "{line}");
    }
}

#[test]
fn a_malformed_call_gets_an_error_and_the_connection_goes_on() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let deep = format!("{{\"id\":1,\"op\":{}", "[".repeat(100_000));
    let cases = [
        (r#"{"id":5,"op":"fly"}"#, json!(5), "flow_add"),
        (r#"{"id":6,"op":"flow_show"}"#, json!(6), "name"),
        (r#"{"id":8,"op":"flow_add","spec":{"name":"x","color":1}}"#, json!(8), "color"),
        (r#"{"op":"stats"}"#, json!(null), "id"),
        (r#"{"id":-1,"op":"stats"}"#, json!(null), ""),
        ("not json", json!(null), "no call"),
        ("\u{0}\u{1}", json!(null), "no call"),
        ("", json!(null), "no call"),
        (&deep, json!(null), "no call"),
    ];
    for (line, id, says) in cases {
        client.send(line);
        let (error, message) = client.error();
        assert_eq!(error, json!([id, "bad_request"]), "{message}");
        assert!(message.contains(says), "{message}");
    }
    client.stream.write_all(b"\xff\xfe\n").unwrap();
    assert_eq!(client.error().0, json!([null, "bad_request"]));
    assert!(client.is_served());
}

#[test]
fn an_oversized_line_gets_an_error_and_the_end() {
    let fixture = Fixture::new();
    let mut bystander = fixture.client();
    for ended in [false, true] {
        let mut client = fixture.client();
        let mut line = vec![b' '; MAX_LINE + 1];
        line.extend(ended.then_some(b'\n'));
        client.stream.write_all(&line).unwrap();
        let (error, message) = client.error();
        assert_eq!(error, json!([null, "bad_request"]));
        assert!(message.contains("262144 bytes"), "{message}");
        assert_eq!(client.read(), None);
        assert!(bystander.is_served());
    }
    let mut longest = r#"{"id":1,"op":"stats"}"#.to_owned();
    longest.push_str(&" ".repeat(MAX_LINE - longest.len()));
    bystander.send(&longest);
    assert_eq!(bystander.read().unwrap()["id"], 1);
}

#[test]
fn a_client_without_hello_is_given_up() {
    let fixture = Fixture::patient(Patience { hello: SHORT, ..Patience::default() });
    let mut silent = fixture.stranger();
    let mut half = fixture.stranger();
    half.stream.write_all(b"{\"service\"").unwrap();
    for client in [&mut silent, &mut half] {
        let (error, message) = client.error();
        assert_eq!(error, json!([null, "bad_request"]));
        assert!(message.contains("no hello"), "{message}");
        assert_eq!(client.read(), None);
    }
}

#[test]
fn a_client_that_stops_within_a_line_is_given_up_and_an_idle_one_stays() {
    let fixture = Fixture::patient(Patience { line: SHORT, ..Patience::default() });
    let mut idle = fixture.client();
    let mut slow = fixture.client();
    slow.stream.write_all(b"{\"id\":1,").unwrap();
    let (error, message) = slow.error();
    assert_eq!(error, json!([null, "bad_request"]));
    assert!(message.contains("in time"), "{message}");
    assert_eq!(slow.read(), None);
    // The idle one has waited as long as the slow one, and longer.
    std::thread::sleep(SHORT * 2);
    assert!(idle.is_served());
}

#[test]
fn a_client_that_calls_no_more_frees_its_place() {
    let fixture = Fixture::patient(Patience { idle: SHORT, ..Patience::default() });
    let mut client = fixture.client();
    let (_, message) = client.error();
    assert!(message.contains("no call came in time"), "{message}");
    assert_eq!(client.read(), None);
}

#[test]
fn a_client_that_does_not_read_is_given_up_and_hurts_nobody() {
    let fixture = Fixture::patient(Patience { write: SHORT, ..Patience::default() });
    let mut bystander = fixture.client();
    let mut deaf = fixture.client();
    deaf.send(r#"{"id":1,"op":"connection_list"}"#);
    assert!(bystander.is_served());
    // Closed in the middle of the answer: what had been sent can still be read, then the stream ends. Reading begins
    // only after the server has hung up, which the peer sees as POLLHUP.
    let mut fds =
        [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&deaf.stream), nix::poll::PollFlags::empty())];
    assert_eq!(nix::poll::poll(&mut fds, 60_000u16), Ok(1));
    let mut rest = Vec::new();
    deaf.lines.read_to_end(&mut rest).unwrap();
    assert!(!rest.is_empty() && rest.len() < 8 << 20 && !rest.ends_with(b"\n"), "{}", rest.len());
    assert!(bystander.is_served());
}

#[test]
fn a_long_answer_arrives_whole() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    client.send(r#"{"id":1,"op":"connection_list"}"#);
    assert_eq!(client.error().1.len(), 8 << 20);
}

#[test]
fn there_is_room_for_so_many_clients_and_again_when_one_leaves() {
    let fixture = Fixture::new();
    let mut clients: Vec<_> = (0..MAX_CLIENTS).map(|_| fixture.client()).collect();
    let mut extra = fixture.stranger();
    let (error, message) = extra.error();
    assert_eq!(error, json!([null, "full"]));
    assert!(message.contains("64 clients"), "{message}");
    assert_eq!(extra.read(), None);
    assert!(clients.iter_mut().all(Client::is_served));
    clients.pop();
    // The thread of the one that left needs a moment to notice.
    while fixture.stranger().read_first() == Some(json!("full")) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Client {
    /// Says hello, whoever listens, and returns the error's code if one comes.
    fn read_first(&mut self) -> Option<Value> {
        _ = writeln!(self.stream, "{}", serde_json::to_string(&Hello::of("test")).unwrap());
        self.read().map(|a| a["error"]["code"].clone())
    }
}

#[test]
fn stopping_ends_clients_and_removes_the_socket() {
    let mut fixture = Fixture::new();
    let mut client = fixture.client();
    fixture.running.take().unwrap().stop();
    assert_eq!(client.read(), None);
    assert!(!fixture.path().exists());
}

#[test]
fn a_socket_that_replaced_ours_is_left_alone() {
    let mut fixture = Fixture::new();
    std::fs::rename(fixture.path(), fixture.dir.path().join("moved")).unwrap();
    let _other = UnixListener::bind(fixture.path()).unwrap();
    drop(fixture.running.take());
    assert!(fixture.path().exists());
}

#[test]
fn the_file_has_its_mode_and_the_directory_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/s");
    let _service = Service::bind(&ServiceConfig { mode: 0o640, ..config(&path) }).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(std::fs::metadata(dir.path().join("a/b")).unwrap().permissions().mode() & 0o022, 0);
    let names: Vec<_> =
        std::fs::read_dir(dir.path().join("a/b")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["s"]);
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    let service = Service::bind(&config(&path)).unwrap();
    let error = Service::bind(&config(&path)).unwrap_err();
    assert!(matches!(error, ServiceError::InUse { .. }), "{error:?}");
    assert!(error.to_string().starts_with("address in use: "), "{error}");
    drop(service);
    assert!(!path.exists());
    Service::bind(&config(&path)).unwrap();
}

#[test]
fn what_cannot_be_bound_is_said_in_a_sentence_and_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let group =
        ServiceConfig { group: Some("no-such-group-here".to_owned()), ..config(&dir.path().join("s")) };
    let cases = [
        (config(&file), "is no socket"),
        (config(&file.join("s")), "create the directory"),
        (config(&dir.path().join("x".repeat(120))), "use the name"),
        (group, "create it, or change [service] group"),
    ];
    for (config, says) in cases {
        let error = Service::bind(&config).unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains('\n'), "{error}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
