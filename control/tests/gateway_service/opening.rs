//! What is asked for is what the forwarder holds, and is seen by whom it concerns.

use std::collections::HashMap;

use control::proto::gateway::*;
use forwarder::api::{FlowSpec, Proto};
use tonic::{Code, Response, Status};

use super::common::site::{Settings, Site};
use super::{User, ask, code, flow_of, operators, page, port};

/// Has the forwarder just what the session tells, and what was granted?
fn holds(site: &Site, session: &Session, from: &[&str], connections: u32, rate: u64) {
    let left = session.expires.unwrap().seconds - session.created.unwrap().seconds;
    for (i, listener) in session.listeners.iter().enumerate() {
        let there = flow_of(site, session, i);
        let wanted = FlowSpec {
            name: listener.flow.clone(),
            proto: if session.protocol() == Protocol::Tcp { Proto::Tcp } else { Proto::Udp },
            listen: listener.address.parse().unwrap(),
            target: listener.target.parse().unwrap(),
            from: from.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            max_conns: Some(connections),
            mss_clamp: None,
            hairpin: false,
            rate: Some(rate),
            lease: there.spec.lease,
        };
        assert_eq!(there.spec, wanted);
        assert!(there.spec.lease.unwrap() as i64 > left, "the flow would end before its session");
    }
    assert_eq!(site.forwarder.flows().len(), session.listeners.len());
}

#[tokio::test]
async fn the_forwarder_holds_just_what_was_granted() {
    let site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    let targets = ["10.81.0.9:7000", "10.81.0.10:7001"];
    let session = alice
        .open(OpenRequest {
            targets: targets.map(String::from).into(),
            sources: vec!["10.82.0.16/28".into(), "10.82.0.7".into()],
            listeners: 3,
            connections: 5,
            rate_mbps: 1000,
            lease: Some(super::seconds(600)),
            labels: HashMap::from([("run".into(), "17".into())]),
            ..ask("tcp")
        })
        .await
        .unwrap();
    holds(&site, &session, &["10.82.0.7/32", "10.82.0.16/28"], 5, 333);
    let of: Vec<_> = session.listeners.iter().map(|l| l.target.as_str()).collect();
    assert_eq!(of, [targets[0], targets[1], targets[0]]);
    assert!(session.listeners.iter().all(|l| l.address.starts_with("10.82.0.1:5")), "{session:?}");
    assert_eq!(session.sources, ["10.82.0.7/32", "10.82.0.16/28"]);
    assert_eq!((session.uid.as_str(), session.owner.as_str()), ("tcp", "alice@site"));
    assert_eq!((session.state(), session.role()), (State::Active, Role::Producer));
    assert_eq!((session.connections, session.rate_mbps, session.limit_mbps), (5, 1000, 1000));
    assert_eq!(session.expires.unwrap().seconds - session.created.unwrap().seconds, 600);
    assert_eq!(session.labels["run"], "17");
    for path in alice.info().await.paths {
        // It comes in by the one and leaves by the other.
        assert_eq!((path.reserved_mbps, path.capacity_mbps, path.link.as_str()), (1000, 100_000, "up"));
    }
    alice.close("tcp").await.unwrap();
    assert!(site.forwarder.flows().is_empty());
    assert!(alice.info().await.paths.iter().all(|path| path.reserved_mbps == 0));

    let session = alice
        .open(OpenRequest {
            role: Role::Consumer.into(),
            protocol: Protocol::Udp.into(),
            targets: vec!["10.82.0.9:5100".into()],
            ..ask("udp")
        })
        .await
        .unwrap();
    // Who reserves nothing is held to the most that he may reserve.
    holds(&site, &session, &["10.81.0.0/24"], 64, 100_000);
    assert_eq!((session.path.as_str(), session.rate_mbps, session.limit_mbps), ("lan", 0, 100_000));
    assert_eq!(session.expires.unwrap().seconds - session.created.unwrap().seconds, 3600);
}

#[tokio::test]
async fn a_listener_is_of_its_sources_family() {
    let site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    let sources = |of: &[&str]| of.iter().map(ToString::to_string).collect();
    let v6 =
        OpenRequest { targets: vec!["[fd81::9]:7000".into()], sources: sources(&["fd82::/64"]), ..ask("v6") };
    let session = alice.open(v6).await.unwrap();
    assert!(session.listeners[0].address.starts_with("[fd82::1]:"), "{session:?}");
    holds(&site, &session, &["fd82::/64"], 64, 100_000);
    alice.close("v6").await.unwrap();
    // Who comes by the other family cannot come to the listener.
    let both = OpenRequest { sources: sources(&["10.82.0.0/24", "fd82::/64"]), ..ask("both") };
    let session = alice.open(both).await.unwrap();
    assert!(session.listeners[0].address.starts_with("10.82.0.1:"), "{session:?}");
    holds(&site, &session, &["10.82.0.0/24"], 64, 100_000);
}

#[tokio::test]
async fn the_gateway_chooses_a_uid_and_the_caller_may_choose_the_path() {
    let site = Site::new(&Settings { producer: &["wan", "lan"], ..Settings::default() });
    let mut alice = User::new(&site, "alice").await;
    let first = alice.open(ask("")).await.unwrap();
    let second = alice
        .open(OpenRequest {
            targets: vec!["10.82.0.9:7000".into()],
            sources: vec!["10.81.0.0/24".into()],
            path: "lan".into(),
            ..ask("")
        })
        .await
        .unwrap();
    assert!(!first.uid.is_empty() && first.uid != second.uid);
    assert_eq!((first.path.as_str(), second.path.as_str()), ("wan", "lan"));
    assert!(second.listeners[0].address.starts_with("10.81.0.1:"));
    for path in ["elsewhere", "wan\n"] {
        let unknown = alice.open(OpenRequest { path: path.into(), ..ask("unknown") }).await.unwrap_err();
        assert_eq!(unknown.code(), Code::InvalidArgument);
        assert!(unknown.message().contains("wan, lan"), "{unknown:?}");
    }
    assert_eq!(alice.list().await.len(), 2);
    let roles = |info: GatewayInfo| {
        info.paths
            .into_iter()
            .map(|p| (p.name.clone(), p.roles().collect::<Vec<_>>()))
            .collect::<HashMap<_, _>>()
    };
    let roles = roles(alice.info().await);
    assert_eq!(roles["wan"], [Role::Producer]);
    assert_eq!(roles["lan"], [Role::Producer, Role::Consumer]);
}

#[tokio::test]
async fn what_cannot_be_granted_leaves_nothing() {
    let site = Site::new(&Settings { capacity: "10G", ports: "5100-5103", ..Settings::default() });
    let mut alice = User::new(&site, "alice").await;
    let free = alice.info().await.listeners_free;
    assert_eq!(free, 4 * 4);
    let text = |text: &str| vec![text.to_owned()];
    for (request, expected) in [
        (OpenRequest { role: 0, ..ask("x") }, Code::InvalidArgument),
        (OpenRequest { role: 7, ..ask("x") }, Code::InvalidArgument),
        (OpenRequest { protocol: 7, ..ask("x") }, Code::InvalidArgument),
        (OpenRequest { targets: vec![], ..ask("x") }, Code::InvalidArgument),
        (OpenRequest { targets: text("localhost:1"), ..ask("x") }, Code::InvalidArgument),
        (OpenRequest { targets: text("10.81.0.9:0"), ..ask("x") }, Code::InvalidArgument),
        (OpenRequest { sources: text("10.82.0.1/24"), ..ask("x") }, Code::InvalidArgument),
        (OpenRequest { lease: Some(super::seconds(-1)), ..ask("x") }, Code::InvalidArgument),
        (OpenRequest { lease: Some(super::seconds(i64::MAX)), ..ask("x") }, Code::PermissionDenied),
        (OpenRequest { lease: Some(super::seconds(3601)), ..ask("x") }, Code::PermissionDenied),
        (OpenRequest { targets: text("192.0.2.1:1"), ..ask("x") }, Code::PermissionDenied),
        (OpenRequest { sources: text("10.82.0.0/23"), ..ask("x") }, Code::PermissionDenied),
        (OpenRequest { sources: text("0.0.0.0/0"), ..ask("x") }, Code::PermissionDenied),
        (OpenRequest { listeners: 17, ..ask("x") }, Code::PermissionDenied),
        (OpenRequest { listeners: u32::MAX, ..ask("x") }, Code::PermissionDenied),
        (OpenRequest { connections: 65, ..ask("x") }, Code::PermissionDenied),
        (OpenRequest { rate_mbps: u64::MAX, ..ask("x") }, Code::PermissionDenied),
        (OpenRequest { rate_mbps: 10_001, ..ask("x") }, Code::ResourceExhausted),
        (OpenRequest { listeners: 5, ..ask("x") }, Code::ResourceExhausted),
        (
            OpenRequest { labels: [("a".repeat(257), String::new())].into(), ..ask("x") },
            Code::InvalidArgument,
        ),
        (ask("two\nlines"), Code::InvalidArgument),
        (ask(&"x".repeat(129)), Code::InvalidArgument),
    ] {
        let status = alice.open(request.clone()).await.expect_err(&format!("{request:?}"));
        assert_eq!(status.code(), expected, "{request:?}: {status:?}");
    }
    assert_eq!(alice.info().await.listeners_free, free);
    assert!(alice.list().await.is_empty() && site.forwarder.flows().is_empty());
    alice.open(OpenRequest { rate_mbps: 10_000, listeners: 4, ..ask("all") }).await.unwrap();
    assert_eq!(code(alice.open(ask("all")).await), Code::AlreadyExists);
}

#[tokio::test]
async fn a_session_is_shown_with_its_traffic_and_listed_to_whom_it_concerns() {
    let site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    let mut bob = User::new(&site, "bob").await;
    let mut root = User::new(&site, "root").await;
    let opened = alice.open(OpenRequest { listeners: 2, ..ask("a") }).await.unwrap();
    alice.open(ask("same")).await.unwrap();
    let bobs = bob.open(ask("same")).await.unwrap();
    let mut got = alice.get("a").await.unwrap();
    for listener in &mut got.listeners {
        assert_eq!(listener.traffic.take(), Some(Traffic::default()));
    }
    assert_eq!(got, opened);
    let names = |sessions: Vec<Session>| {
        sessions.into_iter().map(|s| format!("{} {}", s.owner, s.uid)).collect::<Vec<_>>()
    };
    assert_eq!(names(alice.list().await), ["alice@site a", "alice@site same"]);
    assert_eq!(bob.list().await, [bobs]);
    assert_eq!(names(root.list().await), [""; 0]);
    let all = root.gateway.list(ListRequest { all: true }).await.unwrap().into_inner().sessions;
    assert_eq!(names(all), ["alice@site a", "alice@site same", "bob@site same"]);
    assert_eq!(code(alice.gateway.list(ListRequest { all: true }).await), Code::PermissionDenied);
    assert_eq!(
        code(alice.gateway.watch(WatchRequest { all: true, uid: "".into() }).await),
        Code::PermissionDenied
    );
    // Two users have it: an administrator cannot mean either.
    assert_eq!(code(root.close("same").await), Code::FailedPrecondition);
}

/// Every call that names a session, made by somebody.
async fn every_call(who: &mut User, uid: &str) -> Vec<Status> {
    vec![
        who.get(uid).await.unwrap_err(),
        who.renew(uid, None).await.unwrap_err(),
        who.drain(uid).await.unwrap_err(),
        who.close(uid).await.unwrap_err(),
        who.watch(uid).await.err().unwrap(),
        who.hello(uid).await.unwrap_err(),
        who.update(uid).await.unwrap_err(),
        who.release(uid).await.unwrap_err(),
    ]
}

/// A status as it comes: code, message, details.
fn bytes(answers: Vec<Status>) -> Vec<(Code, String, Vec<u8>)> {
    answers.into_iter().map(|s| (s.code(), s.message().to_owned(), s.details().to_vec())).collect()
}

#[tokio::test]
async fn a_strangers_calls_are_answered_as_if_there_were_no_session() {
    let site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    let mut bob = User::new(&site, "bob").await;
    let mut root = User::new(&site, "root").await;
    let absent = bytes(every_call(&mut bob, "hers").await);
    assert!(absent.iter().all(|(code, ..)| *code == Code::NotFound), "{absent:?}");
    let hers = alice.open(ask("hers")).await.unwrap();
    assert_eq!(bytes(every_call(&mut bob, "hers").await), absent);
    assert_eq!(alice.list().await, std::slice::from_ref(&hers));
    // And one that waits for hello.
    let mut caller = alice.clone();
    let waits = tokio::spawn(async move { caller.req("waits").await });
    super::until("req reserves", async || (alice.list().await.len() == 2).then_some(())).await;
    let of = |answers: &[(Code, String, Vec<u8>)], uid: &str| {
        answers.iter().map(|(code, said, _)| (*code, said.replace(uid, "UID"))).collect::<Vec<_>>()
    };
    assert_eq!(of(&bytes(every_call(&mut bob, "waits").await), "waits"), of(&absent, "hers"));
    alice.release("waits").await.unwrap();
    assert_eq!(code(waits.await.unwrap()), Code::Aborted);

    assert_eq!(root.get("hers").await.unwrap().owner, "alice@site");
    // What he may keep goes by his own rules, and he has none.
    assert_eq!(code(root.renew("hers", None).await), Code::PermissionDenied);
    assert_eq!(root.drain("hers").await.unwrap().state(), State::Draining);
    alice.over("hers").await;
    let mut watcher = alice.watch("").await.unwrap();
    alice.open(ask("again")).await.unwrap();
    root.close("again").await.unwrap();
    assert_eq!(watcher.end("again").await, "released by root@site");
    alice.open(ask("third")).await.unwrap();
    root.release("third").await.unwrap();
    assert!(site.forwarder.flows().is_empty());
}

#[tokio::test]
async fn a_listener_that_an_operator_has_is_left_to_him() {
    let site = Site::new(&Settings { ports: "5100-5102", ..Settings::default() });
    let mut alice = User::new(&site, "alice").await;
    site.forwarder.add(operators("beam", "10.82.0.1:5101"));
    let mut ports =
        [alice.open(ask("a")).await.unwrap(), alice.open(ask("b")).await.unwrap()].map(|s| port(&s));
    ports.sort_unstable();
    assert_eq!(ports, [5100, 5102]);
    assert_eq!(code(alice.open(ask("c")).await), Code::ResourceExhausted);
    // The same number of UDP is another listener.
    let udp = OpenRequest { protocol: Protocol::Udp.into(), listeners: 3, ..ask("udp") };
    alice.open(udp).await.unwrap();
    assert_eq!(site.forwarder.flows()["beam"].spec, operators("beam", "10.82.0.1:5101"));
}

#[tokio::test]
async fn metrics_tell_sessions_by_state_and_decisions() {
    let site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    alice.open(OpenRequest { rate_mbps: 700, ..ask("a") }).await.unwrap();
    alice.open(ask("b")).await.unwrap();
    alice.close("b").await.unwrap();
    assert_eq!(code(alice.close("b").await), Code::NotFound);
    assert_eq!(code(User::on(site.channel().await, "x").get("a").await), Code::Unauthenticated);
    let (status, text) = page(&site, "/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "s2cs_sessions{state=\"active\"} 1",
        "s2cs_sessions{state=\"draining\"} 0",
        "s2cs_forwarder_up 1",
        "s2cs_in_step 1",
        "s2cs_reserved_mbps{port=\"wan\"} 700",
        "s2cs_capacity_mbps{port=\"lan\"} 100000",
        "s2cs_decisions_total{call=\"open\",outcome=\"granted\"} 2",
        "s2cs_decisions_total{call=\"close\",outcome=\"granted\"} 1",
        "s2cs_decisions_total{call=\"close\",outcome=\"NotFound\"} 1",
        "s2cs_decisions_total{call=\"get\",outcome=\"Unauthenticated\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    let refused: Result<Response<_>, Status> =
        control::proto::gateway::gateway_client::GatewayClient::new(site.channel().await)
            .get_gateway(GetGatewayRequest {})
            .await;
    assert_eq!(code(refused), Code::Unauthenticated);
}
