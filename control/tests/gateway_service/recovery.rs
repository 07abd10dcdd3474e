//! Crashes of s2cs and of its forwarder, and what operators do meanwhile.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use control::proto::gateway::*;
use forwarder::api::{FlowSpec, Request};
use tokio::task::JoinSet;
use tonic::Code;

use super::common::site::{POLICY, Settings, Site};
use super::{User, agree, ask, code, flow_of, operators, port, seconds, specs, until};

/// In alphabetical order of uid.
async fn some_sessions(alice: &mut User) -> Vec<Session> {
    let mut sessions = Vec::new();
    for (uid, listeners) in [("a", 1), ("b", 2), ("c", 3)] {
        let request =
            OpenRequest { listeners, rate_mbps: 100, labels: [("n".into(), uid.into())].into(), ..ask(uid) };
        sessions.push(alice.open(request).await.unwrap());
    }
    sessions
}

#[tokio::test]
async fn sessions_outlive_a_crash_and_nobody_elses_flow_is_touched() {
    let mut site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    let sessions = some_sessions(&mut alice).await;
    let info = alice.info().await;
    site.forwarder.add(operators("beam", "10.82.0.1:5000"));
    // Another control server's, whose name begins as ours does.
    site.forwarder.add(operators("s2cs2:0000000000000007:0", "10.82.0.1:5001"));
    let flows = specs(site.forwarder.flows());
    site.kill();
    let orphan = "s2cs:0000000000000007:0";
    site.forwarder.add(operators(orphan, "10.82.0.1:5002"));
    // Put wrong while nobody looked.
    let wrong = FlowSpec { max_conns: Some(1), ..flow_of(&site, &sessions[0], 0).spec };
    site.forwarder.ask(Request::FlowReplace { spec: wrong }).unwrap();
    site.start();
    let mut alice = User::new(&site, "alice").await;
    assert_eq!(alice.list().await, sessions);
    assert_eq!(specs(site.forwarder.flows()), flows);
    assert_eq!(alice.info().await, info);
    for uid in ["a", "b", "c"] {
        alice.close(uid).await.unwrap();
    }
    assert_eq!(site.forwarder.flows().into_keys().collect::<Vec<_>>(), ["beam", "s2cs2:0000000000000007:0"]);
}

#[tokio::test]
async fn a_flow_removed_while_s2cs_is_down_ends_its_session() {
    let mut site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    let sessions = some_sessions(&mut alice).await;
    site.kill();
    let name = sessions[2].listeners[0].flow.clone();
    site.forwarder.ask(Request::FlowDelete { name }).unwrap();
    site.start();
    let mut alice = User::new(&site, "alice").await;
    assert_eq!(code(alice.get("c").await), Code::NotFound);
    assert_eq!(alice.list().await, sessions[..2]);
    assert_eq!(site.forwarder.flows().len(), 3);
    assert!(site.log().contains("an operator removed its flow"));
}

#[tokio::test]
async fn a_forwarder_that_starts_anew_is_programmed_again() {
    let mut site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    let sessions = some_sessions(&mut alice).await;
    let flows = specs(site.forwarder.flows());
    site.forwarder.restart();
    until("the flows are there again", async || (specs(site.forwarder.flows()) == flows).then_some(())).await;
    assert_eq!(alice.list().await, sessions);
    // Both at once.
    site.kill();
    site.forwarder.restart();
    assert!(site.forwarder.flows().is_empty());
    site.start();
    let mut alice = User::new(&site, "alice").await;
    assert_eq!(alice.list().await, sessions);
    assert_eq!(specs(site.forwarder.flows()), flows);
    // This is the run that has them now: what is missing there was removed.
    site.kill();
    site.forwarder.ask(Request::FlowDelete { name: sessions[0].listeners[0].flow.clone() }).unwrap();
    site.start();
    let mut alice = User::new(&site, "alice").await;
    assert_eq!(code(alice.get("a").await), Code::NotFound);
    assert_eq!(alice.list().await, sessions[1..]);
}

#[tokio::test]
async fn a_session_ends_whose_listener_an_operator_has_after_a_restart() {
    let mut site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    let sessions = some_sessions(&mut alice).await;
    let mut watcher = alice.watch("c").await.unwrap();
    let listener = &sessions[2].listeners[1].address;
    site.forwarder.stop();
    alice.forwarding(false).await;
    site.forwarder.forget();
    site.forwarder.add(operators("beam", listener));
    site.forwarder.start();
    assert_eq!(watcher.end("c").await, "the forwarder does not take its flows any more");
    alice.forwarding(true).await;
    assert_eq!(alice.list().await, sessions[..2]);
    assert_eq!(site.forwarder.flows().len(), 1 + 3);
    assert_eq!(site.forwarder.flows()["beam"].spec, operators("beam", listener));
}

#[tokio::test]
async fn what_expires_while_s2cs_is_down_ends_when_it_comes() {
    let mut site = Site::new(&Settings { ports: "5100-5101", ..Settings::default() });
    let mut alice = User::new(&site, "alice").await;
    let short = alice.open(OpenRequest { lease: Some(seconds(1)), ..ask("short") }).await.unwrap();
    let long = alice.open(ask("long")).await.unwrap();
    site.kill();
    // Its flow has some time more, so it is there.
    assert_eq!(site.forwarder.flows().len(), 2);
    let expires = UNIX_EPOCH + Duration::from_secs(short.expires.unwrap().seconds as u64 + 1);
    until("its time is over", async || (SystemTime::now() > expires).then_some(())).await;
    site.start();
    let mut alice = User::new(&site, "alice").await;
    assert_eq!(code(alice.get("short").await), Code::NotFound);
    assert_eq!(alice.list().await, [long]);
    assert_eq!(site.forwarder.flows().len(), 1);
    assert_eq!(port(&alice.open(ask("next")).await.unwrap()), port(&short));
}

#[tokio::test]
async fn a_half_made_and_a_half_released_session_are_not_there_after_a_crash() {
    let mut site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    let info = alice.info().await;
    alice.open(ask("released")).await.unwrap();
    alice.open(ask("drained")).await.unwrap();
    let mut caller = alice.clone();
    let req = tokio::spawn(async move { caller.req("half").await });
    until("req reserves", async || alice.get("half").await.ok()).await;
    site.forwarder.stop();
    assert_eq!(code(alice.release("released").await), Code::Unavailable);
    assert_eq!(code(alice.drain("drained").await), Code::Unavailable);
    site.kill();
    req.await.unwrap().unwrap_err();
    site.forwarder.start();
    assert_eq!(site.forwarder.flows().len(), 2);
    site.start();
    let mut alice = User::new(&site, "alice").await;
    assert_eq!(code(alice.get("released").await), Code::NotFound);
    assert_eq!(code(alice.get("half").await), Code::NotFound);
    // It has no connections, and is drained now.
    alice.over("drained").await;
    assert!(alice.list().await.is_empty() && site.forwarder.flows().is_empty());
    assert_eq!(alice.info().await, info);
}

#[tokio::test]
async fn sessions_of_a_rule_that_is_gone_go_on_but_are_not_renewed() {
    let mut site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    let sessions = some_sessions(&mut alice).await;
    site.kill();
    site.replace("policy.toml", POLICY.split("[[rule]]\nname = \"users\"").next().unwrap());
    site.start();
    let mut alice = User::new(&site, "alice").await;
    assert_eq!(alice.list().await, sessions);
    assert_eq!(site.forwarder.flows().len(), 6);
    assert_eq!(code(alice.renew("a", Some(1)).await), Code::PermissionDenied);
    assert_eq!(code(alice.open(ask("d")).await), Code::PermissionDenied);
    assert_eq!(alice.list().await, sessions);
    alice.close("a").await.unwrap();
}

#[tokio::test]
async fn what_was_answered_holds_after_a_crash_in_the_midst_of_calls() {
    let mut site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    let free = alice.info().await.listeners_free;
    let (mut opened, mut closed) = (Vec::new(), Vec::new());
    for round in 0..5 {
        let mut calls = JoinSet::new();
        for n in 0..30 {
            let mut alice = alice.clone();
            calls.spawn(async move {
                let uid = format!("{round}-{n}");
                let opened = alice.open(OpenRequest { listeners: 2, ..ask(&uid) }).await.is_ok();
                let close = opened && n % 2 == 0;
                let closed = close && alice.close(&uid).await.is_ok();
                // Where no answer came to close, it may be either.
                (opened && !close, closed, uid)
            });
        }
        let mut answers = Vec::new();
        for _ in 0..=2 * round {
            answers.push(calls.join_next().await.unwrap().unwrap());
        }
        site.kill();
        answers.extend(calls.join_all().await);
        for (is_open, is_closed, uid) in answers {
            match (is_open, is_closed) {
                (true, _) => opened.push(uid),
                (_, true) => closed.push(uid),
                _ => {}
            }
        }
        site.start();
        alice = User::new(&site, "alice").await;
        let there: Vec<_> = alice.list().await.into_iter().map(|session| session.uid).collect();
        assert!(opened.iter().all(|uid| there.contains(uid)), "{opened:?} were opened, {there:?} are there");
        assert!(!closed.iter().any(|uid| there.contains(uid)), "{closed:?} were closed, {there:?} are there");
        agree(&site, &mut alice, free).await;
    }
    assert!(!opened.is_empty());
}
