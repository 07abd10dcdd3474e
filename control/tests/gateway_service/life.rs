//! Leases, draining, and forwarders that are away.

use control::proto::gateway::*;
use forwarder::api::Request;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::common::site::{Settings, Site};
use super::{User, ask, channel, code, flow_of, page, port, seconds, until};

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
async fn health_tells_whether_the_forwarder_is_there() {
    let mut site = Site::new(&Settings::default());
    let mut health = HealthClient::new(channel(&site).await);
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
