//! Many flows changed in one step: all of it or nothing, what it frees it may take, and connections that are not touched go on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::SocketAddr;

use common::packet::{ACK, tcp};
use common::{LAN, Rig, WAN, flow};
use forwarder::api::{
    Answer, Call, ErrorCode, FlowInfo, FlowSpec, LeaseRenewal, MAX_LINE, Outcome, Proto, Reply, Request,
};

const TARGET: &str = "10.1.0.2:9000";

fn on(name: &str, port: u16) -> FlowSpec {
    flow(name, Proto::Tcp, &format!("10.0.0.1:{port}"), TARGET, "10.0.0.0/24")
}

fn apply(add: Vec<FlowSpec>, replace: Vec<FlowSpec>, delete: &[&str], renew: &[(&str, u64)]) -> Request {
    let delete = delete.iter().map(|name| (*name).to_owned()).collect();
    let renew = renew.iter().map(|(name, lease)| LeaseRenewal { name: (*name).into(), lease: Some(*lease) });
    Request::FlowApply { add, replace, delete, renew: renew.collect() }
}

fn listed(rig: &mut Rig) -> Vec<FlowInfo> {
    match rig.ask(Request::FlowList) {
        Ok(Reply::Flows { flows }) => flows,
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_call_makes_one_epoch_and_takes_what_it_frees() {
    let mut rig = Rig::new("");
    rig.add(on("goes", 1));
    rig.add(on("stays", 2));
    rig.add(on("moves", 3));
    rig.add(on("renewed", 4));
    let kept = rig.establish(LAN, "10.0.0.2:1000", "10.0.0.1:2", WAN, TARGET);
    let before = rig.stats().epoch;

    // The replaced flow takes the deleted one's address, and an added one takes the place and the name of both.
    let epoch = rig.done(apply(
        vec![on("new", 3), on("goes", 5)],
        vec![FlowSpec { max_conns: Some(7), ..on("stays", 2) }, on("moves", 1)],
        &["goes"],
        &[("renewed", 60), ("new", 90)],
    ));
    assert_eq!(epoch, before + 1);
    let flows = listed(&mut rig);
    let told: Vec<_> = flows.iter().map(|f| (&*f.spec.name, f.spec.listen.port(), f.spec.lease)).collect();
    assert_eq!(
        told,
        [
            ("goes", 5, None),
            ("moves", 1, None),
            ("new", 3, Some(90)),
            ("renewed", 4, Some(60)),
            ("stays", 2, None)
        ]
    );
    rig.relays_both(&kept, true, tcp(ACK), b"goes on");
    for port in [1, 3, 4, 5] {
        rig.open(Proto::Tcp, LAN, "10.0.0.2:1001", &format!("10.0.0.1:{port}"), WAN, TARGET);
    }
    rig.balance();
}

#[test]
fn a_call_that_fails_anywhere_changes_nothing() {
    let mut rig = Rig::new("[limits]\nflows = 5\n");
    rig.add(on("a", 1));
    rig.add(FlowSpec { lease: Some(1000), ..on("b", 2) });
    let conn = rig.establish(LAN, "10.0.0.2:1000", "10.0.0.1:1", WAN, TARGET);
    let (before, epoch) = (listed(&mut rig), rig.stats().epoch);
    // Each does much and fails with its last step.
    let much = |add: FlowSpec, replace: FlowSpec| (vec![on("x", 1), add], vec![on("b", 20), replace]);
    let fine = || FlowSpec { lease: Some(5), ..on("b", 21) };
    let (add, replace) = much(on("y", 21), fine());
    let taken = apply(add, replace, &["a"], &[]);
    let (add, replace) = much(on("x", 30), fine());
    let twice = apply(add, replace, &["a"], &[]);
    let (add, replace) = much(FlowSpec { from: vec![], ..on("bad", 30) }, fine());
    let invalid = apply(add, replace, &["a"], &[]);
    let (add, replace) = much(on("y", 30), on("nobody", 31));
    let missing = apply(add, replace, &["a"], &[]);
    let (add, replace) = much(on("y", 30), fine());
    let full = apply(add, replace, &["a"], &[]);
    let gone = apply(vec![on("x", 1)], vec![], &["a"], &[("x", 5), ("a", 5)]);
    let deleted_twice = apply(vec![on("x", 30)], vec![], &["a", "a"], &[]);
    for (request, code, name) in [
        (taken, ErrorCode::Conflict, "\"y\""),
        (twice, ErrorCode::Conflict, "\"x\""),
        (invalid, ErrorCode::BadRequest, "\"bad\""),
        (missing, ErrorCode::NotFound, "\"nobody\""),
        (full, ErrorCode::Full, "\"y\""),
        (gone, ErrorCode::NotFound, "\"a\""),
        (deleted_twice, ErrorCode::NotFound, "\"a\""),
    ] {
        // Slots that failed calls took are there again each time: else this would be full before long.
        for _ in 0..5 {
            let error = rig.ask(request.clone()).unwrap_err();
            assert_eq!(error.code, code, "{error}");
            assert!(error.message.contains(name), "{error}");
            assert_eq!((listed(&mut rig), rig.stats().epoch), (before.clone(), epoch), "{error}");
        }
    }
    rig.relays_both(&conn, true, tcp(ACK), b"goes on");
    rig.done(apply(vec![on("c", 3), on("d", 4)], vec![], &[], &[]));
    rig.balance();
}

#[test]
fn ten_thousand_flows_are_installed_by_the_lines_that_a_client_may_send() {
    let mut rig = Rig::new("");
    // As sessions have them: long names, a lease, a rate, a few sources.
    let spec = |n: u32| {
        let listen = SocketAddr::from(([10, 0, 0, 1], 10_000 + n as u16));
        let name = format!("session-{n:032x}@site.example");
        FlowSpec {
            max_conns: Some(16),
            rate: Some(10_000),
            lease: Some(7200),
            ..flow(&name, Proto::Tcp, &listen.to_string(), TARGET, "10.0.0.2/32,10.0.0.3/32,192.168.0.0/24")
        }
    };
    for call in 0..25 {
        let add = (call * 400..(call + 1) * 400).map(spec).collect();
        let call = Call { id: 1, request: apply(add, vec![], &[], &[]) };
        let line = serde_json::to_string(&call).unwrap();
        assert!(line.len() < MAX_LINE, "{}", line.len());
        let read: Call = serde_json::from_str(&line).unwrap();
        assert_eq!(read, call);
        rig.done(read.request);
    }
    let flows = listed(&mut rig);
    assert_eq!(flows.len(), 10_000);
    let answer = Answer { id: Some(1), outcome: Outcome::Ok(Box::new(Reply::Flows { flows })) };
    let line = serde_json::to_string(&answer).unwrap();
    assert_eq!(serde_json::from_str::<Answer>(&line).unwrap(), answer);
    rig.open(Proto::Tcp, LAN, "10.0.0.2:1001", "10.0.0.1:19999", WAN, TARGET);
    let names = (0..10_000).map(|n| spec(n).name).collect();
    rig.done(Request::FlowApply { add: vec![], replace: vec![], delete: names, renew: vec![] });
    assert_eq!(listed(&mut rig), []);
}

#[test]
fn the_lists_of_a_call_are_optional() {
    let call: Call = serde_json::from_str(r#"{"id":1,"op":"flow_apply"}"#).unwrap();
    assert_eq!(call.request, apply(vec![], vec![], &[], &[]));
    let call: Call = serde_json::from_str(
        r#"{"id":1,"op":"flow_apply","renew":[{"name":"a","lease":"1h"},{"name":"b"}]}"#,
    )
    .unwrap();
    let renew =
        [("a", Some(3600)), ("b", None)].map(|(name, lease)| LeaseRenewal { name: name.into(), lease });
    let wanted = Request::FlowApply { add: vec![], replace: vec![], delete: vec![], renew: renew.into() };
    assert_eq!(call.request, wanted);
}

#[test]
fn rates_are_numbers_or_texts_and_shown_as_short_ones() {
    use forwarder::api::rate;
    for (text, mbits, shown) in
        [("500M", 500, "500M"), ("10G", 10_000, "10G"), ("1500", 1500, "1500M"), ("1T", 1_000_000, "1T")]
    {
        assert_eq!(rate::parse(text), Ok(mbits));
        assert_eq!(rate::show(mbits), shown);
        let spec = serde_json::to_value(FlowSpec { rate: Some(mbits), ..on("a", 1) }).unwrap();
        assert_eq!(spec["rate"], mbits);
        for written in [mbits.into(), serde_json::Value::from(text)] {
            let mut spec = spec.clone();
            spec["rate"] = written;
            assert_eq!(serde_json::from_value::<FlowSpec>(spec).unwrap().rate, Some(mbits));
        }
    }
    for text in ["", "G", "0", "0G", "-1G", "1.5G", "10 G", "10g", "2T", "1000001", "99999999999999999999T"] {
        assert!(rate::parse(text).unwrap_err().contains("\"500M\""), "{text}");
    }
}
