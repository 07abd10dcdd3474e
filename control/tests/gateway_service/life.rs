//! Leases, draining, and forwarders that are away.

use control::proto::gateway::*;
use forwarder::api::{ApiError, ErrorCode, Request};
use tokio::task::JoinSet;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::common::site::{Settings, Site};
use super::{User, agree, ask, code, flow_of, page, port, seconds, until};

#[tokio::test]
async fn renewing_moves_the_end_of_a_session_and_of_its_flow() {
    let site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    let opened = alice.open(OpenRequest { lease: Some(seconds(300)), ..ask("a") }).await.unwrap();
    assert!(flow_of(&site, &opened, 0).lease_remaining.unwrap() <= 360);
    let renewed = alice.renew("a", Some(2000)).await.unwrap();
    assert!(renewed.expires.unwrap().seconds >= opened.created.unwrap().seconds + 2000);
    assert_eq!(alice.list().await, std::slice::from_ref(&renewed));
    assert_eq!(Session { expires: opened.expires, ..renewed.clone() }, opened);
    assert!(flow_of(&site, &renewed, 0).lease_remaining.unwrap() > 1000);

    let much = alice.renew("a", Some(3601)).await.unwrap_err();
    assert_eq!(much.code(), Code::PermissionDenied);
    assert!(much.message().contains("1h"), "{much:?}");
    assert_eq!(code(alice.renew("a", Some(0)).await), Code::InvalidArgument);
    assert_eq!(alice.list().await, std::slice::from_ref(&renewed));
    // Left out: as long as it was granted for.
    let again = alice.renew("a", None).await.unwrap();
    assert!(again.expires.unwrap().seconds >= renewed.expires.unwrap().seconds);
}

#[tokio::test]
async fn a_session_ends_with_its_lease_without_anybody_doing_anything() {
    let site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    let free = alice.info().await.listeners_free;
    let mut watcher = alice.watch("").await.unwrap();
    alice.open(OpenRequest { lease: Some(seconds(1)), listeners: 2, ..ask("short") }).await.unwrap();
    alice.open(ask("long")).await.unwrap();
    assert_eq!(watcher.end("short").await, "its lease has ended");
    alice.over("short").await;
    assert_eq!(site.forwarder.flows().len(), 1);
    assert_eq!(alice.info().await.listeners_free, free - 1);
    assert_eq!(alice.get("long").await.unwrap().state(), State::Active);
}

#[tokio::test]
async fn a_drained_session_ends_with_its_last_connection_and_its_ports_are_free() {
    let site = Site::new(&Settings { ports: "5100-5100", ..Settings::default() });
    let mut alice = User::new(&site, "alice").await;
    let first = alice.open(ask("a")).await.unwrap();
    let mut watcher = alice.watch("a").await.unwrap();
    assert_eq!(code(alice.open(ask("b")).await), Code::ResourceExhausted);
    assert_eq!(alice.drain("a").await.unwrap().state(), State::Draining);
    let told = |before, state, reason: &str| Some(("a".to_owned(), before, state, reason.to_owned()));
    let last = "its last connection has ended";
    assert_eq!(watcher.next().await, told(State::Unspecified, State::Active, "as it is"));
    assert_eq!(watcher.next().await, told(State::Active, State::Draining, "drained by its user"));
    assert_eq!(watcher.next().await, told(State::Draining, State::Releasing, last));
    assert_eq!(watcher.next().await, told(State::Releasing, State::Ended, last));
    assert_eq!(watcher.next().await, None);
    assert!(site.forwarder.flows().is_empty());
    assert_eq!(port(&alice.open(ask("b")).await.unwrap()), port(&first));
    assert_eq!(code(alice.drain("a").await), Code::NotFound);
}

#[tokio::test]
async fn a_session_ends_whose_flow_an_operator_removes() {
    let site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    let removed = alice.open(OpenRequest { listeners: 2, ..ask("removed") }).await.unwrap();
    let other = alice.open(ask("other")).await.unwrap();
    let mut watcher = alice.watch("removed").await.unwrap();
    site.forwarder.ask(Request::FlowDelete { name: removed.listeners[1].flow.clone() }).unwrap();
    assert_eq!(watcher.end("removed").await, "an operator removed its flow");
    assert_eq!(alice.list().await, std::slice::from_ref(&other));
    let left = site.forwarder.flows();
    assert_eq!(left.keys().collect::<Vec<_>>(), [&other.listeners[0].flow]);
}

#[tokio::test]
async fn without_its_forwarder_nothing_is_opened_and_releases_are_carried_out_later() {
    let mut site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    let free = alice.info().await.listeners_free;
    alice.open(ask("released")).await.unwrap();
    alice.open(ask("closed")).await.unwrap();
    let stays = alice.open(ask("stays")).await.unwrap();
    site.forwarder.stop();
    // At once, before anything could have told that it is away, and later.
    assert_eq!(code(alice.open(ask("none")).await), Code::Unavailable);
    alice.forwarding(false).await;
    assert_eq!(code(alice.open(ask("none")).await), Code::Unavailable);
    assert_eq!(code(alice.get("none").await), Code::NotFound);
    assert_eq!(code(alice.release("released").await), Code::Unavailable);
    assert_eq!(code(alice.close("closed").await), Code::Unavailable);
    assert_eq!(code(alice.renew("stays", None).await), Code::Unavailable);
    assert_eq!(alice.get("released").await.unwrap().state(), State::Releasing);
    assert_eq!(site.forwarder.flows().len(), 3);
    site.forwarder.start();
    alice.over("released").await;
    alice.over("closed").await;
    alice.forwarding(true).await;
    assert_eq!(alice.list().await, std::slice::from_ref(&stays));
    assert_eq!(site.forwarder.flows().len(), 1);
    assert_eq!(alice.info().await.listeners_free, free - 1);
    alice.open(ask("none")).await.unwrap();
}

#[tokio::test]
async fn what_the_forwarder_fails_to_end_is_ended_once_it_can() {
    let site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    let free = alice.info().await.listeners_free;
    alice.open(ask("closed")).await.unwrap();
    alice.open(ask("drained")).await.unwrap();
    alice.open(OpenRequest { lease: Some(seconds(1)), ..ask("short") }).await.unwrap();
    alice.open(ask("stays")).await.unwrap();
    site.forwarder.fail(Some(ApiError { code: ErrorCode::Internal, message: "out of sorts".into() }));
    let failed = alice.close("closed").await.unwrap_err();
    assert_eq!((failed.code(), failed.message()), (Code::Unavailable, "out of sorts; try again later"));
    assert_eq!(code(alice.drain("drained").await), Code::Unavailable);
    until("the lease ends", async || {
        (alice.get("short").await.unwrap().state() == State::Releasing).then_some(())
    })
    .await;
    site.forwarder.fail(None);
    for uid in ["closed", "drained", "short"] {
        alice.over(uid).await;
    }
    agree(&site, &mut alice, free).await;
}

#[tokio::test]
async fn calls_that_meet_on_one_session_leave_nothing() {
    let site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    let free = alice.info().await.listeners_free;
    let mut opens = JoinSet::new();
    for _ in 0..20 {
        let mut alice = alice.clone();
        opens.spawn(async move { alice.open(ask("one")).await });
    }
    let (made, refused): (Vec<_>, Vec<_>) = opens.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!(made.len(), 1);
    assert!(refused.into_iter().all(|outcome| code(outcome) == Code::AlreadyExists));

    let mut calls = JoinSet::new();
    for n in 0..300 {
        let mut alice = alice.clone();
        calls.spawn(async move {
            match n % 6 {
                0 | 1 => alice.open(OpenRequest { listeners: 3, ..ask("one") }).await.map(|_| ()),
                2 => alice.close("one").await,
                3 => alice.renew("one", Some(60)).await.map(|_| ()),
                4 => alice.drain("one").await.map(|_| ()),
                _ => alice.update("one").await.map(|_| ()),
            }
        });
    }
    for outcome in calls.join_all().await {
        let code = outcome.err().map_or(Code::Ok, |status| status.code());
        let met = [Code::Ok, Code::NotFound, Code::AlreadyExists, Code::FailedPrecondition];
        assert!(met.contains(&code), "{code:?}");
    }
    // It may be there, and may be draining.
    _ = alice.close("one").await;
    alice.over("one").await;
    agree(&site, &mut alice, free).await;
}

#[tokio::test]
async fn a_forwarder_that_comes_and_goes_while_sessions_do_has_just_theirs() {
    let mut site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    let free = alice.info().await.listeners_free;
    let mut kept = Vec::new();
    for round in 0..6 {
        let mut calls = JoinSet::new();
        for n in 0..20 {
            let mut alice = alice.clone();
            calls.spawn(async move {
                let uid = format!("{round}-{n}");
                let opened = alice.open(OpenRequest { listeners: 2, ..ask(&uid) }).await;
                if n % 3 == 0 {
                    // It is carried out now or later.
                    _ = alice.close(&uid).await;
                    return None;
                }
                opened.ok().map(|session| session.uid)
            });
        }
        // In the midst of them.
        kept.extend(calls.join_next().await.unwrap().unwrap());
        match round % 2 {
            0 => site.forwarder.restart(),
            _ => {
                site.forwarder.stop();
                site.forwarder.start();
            }
        }
        kept.extend(calls.join_all().await.into_iter().flatten());
    }
    alice.forwarding(true).await;
    kept.sort_unstable();
    let there = until("releases are carried out", async || {
        let sessions = alice.list().await;
        sessions.iter().all(|s| s.state() == State::Active).then_some(sessions)
    })
    .await;
    let mut there: Vec<_> = there.into_iter().map(|session| session.uid).collect();
    there.sort_unstable();
    assert_eq!(there, kept);
    agree(&site, &mut alice, free).await;
}

#[tokio::test]
async fn health_tells_whether_the_forwarder_is_there() {
    let mut site = Site::new(&Settings::default());
    let mut health = HealthClient::new(site.channel().await);
    for away in [false, true, false] {
        site.forwarder.stop();
        if !away {
            site.forwarder.start();
        }
        let wanted = if away { ServingStatus::NotServing } else { ServingStatus::Serving };
        for service in ["", "scistream.Control", "scistream.gateway.v1.Gateway"] {
            let service = service.to_owned();
            until("health tells it", async || {
                let answer = health.check(HealthCheckRequest { service: service.clone() }).await.unwrap();
                (answer.into_inner().status() == wanted).then_some(())
            })
            .await;
        }
        let (status, text) = page(&site, "/healthz").await;
        assert_eq!(status, if away { 503 } else { 200 }, "{text}");
        let (_, text) = page(&site, "/metrics").await;
        let up = format!("s2cs_forwarder_up {}", u8::from(!away));
        assert!(text.lines().any(|l| l == up), "{text}");
    }
    let unknown = health.check(HealthCheckRequest { service: "other".into() }).await;
    assert_eq!(code(unknown), Code::NotFound);
}

#[tokio::test]
async fn where_two_users_have_one_uid_an_administrator_says_whose_is_meant() {
    let site = Site::new(&Settings::default());
    let [mut alice, mut bob, mut root] =
        [User::new(&site, "alice").await, User::new(&site, "bob").await, User::new(&site, "root").await];
    alice.open(ask("same")).await.unwrap();
    bob.open(ask("same")).await.unwrap();
    assert_eq!(code(root.close("same").await), Code::FailedPrecondition);
    let of = |owner: &str| GetRequest { uid: "same".into(), owner: owner.into() };
    assert_eq!(root.gateway.get(of("bob@site")).await.unwrap().into_inner().owner, "bob@site");
    assert_eq!(alice.gateway.get(of("alice@site")).await.unwrap().into_inner().owner, "alice@site");
    // To others an owner's name tells nothing.
    let [there, not_there] =
        [alice.gateway.get(of("bob@site")).await, alice.gateway.get(of("carol@site")).await];
    let [there, not_there] = [there.unwrap_err(), not_there.unwrap_err()];
    assert_eq!((there.code(), there.message()), (Code::NotFound, not_there.message()));
    assert_eq!(root.gateway.get(of("carol@site")).await.unwrap_err().code(), Code::NotFound);
    root.gateway.close(CloseRequest { uid: "same".into(), owner: "bob@site".into() }).await.unwrap();
    assert_eq!(code(bob.get("same").await), Code::NotFound);
    alice.get("same").await.unwrap();
}
