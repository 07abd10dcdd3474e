//! The forwarder that tests program is the one they will meet: it keeps flows, refuses what collides, and forgets in a restart.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::forwarder::Forwarder;
use control::client::{Client, ClientError};
use forwarder::api::{ErrorCode, FlowSpec, Reply, Request};

fn flow(name: &str, port: u16) -> FlowSpec {
    let listen = format!("10.82.0.1:{port}").parse().unwrap();
    FlowSpec { name: name.into(), listen, target: "10.81.0.9:5002".parse().unwrap(), ..common::spec() }
}

#[test]
fn it_keeps_flows_refuses_collisions_and_forgets_in_a_restart() {
    let mut forwarder = Forwarder::new();
    let mut client = Client::connect(forwarder.socket()).unwrap();
    let instance = client.instance().map(str::to_owned);
    let add = vec![flow("s2cs:1:0", 5100), flow("s2cs:1:1", 5101)];
    client.call(Request::FlowApply { add, replace: vec![], delete: vec![], renew: vec![] }).unwrap();
    for taken in [flow("s2cs:1:0", 5102), flow("other", 5100)] {
        match client.call(Request::FlowAdd { spec: taken }) {
            Err(ClientError::Api(error)) => assert_eq!(error.code, ErrorCode::Conflict, "{error}"),
            other => panic!("{other:?}"),
        }
    }
    match client.call(Request::PortList).unwrap() {
        Reply::Ports { ports } => {
            let told: Vec<_> = ports.iter().map(|p| (&*p.name, &*p.link, p.speed)).collect();
            assert_eq!(told, [("lan", "up", Some(100_000)), ("wan", "up", Some(100_000))]);
        }
        other => panic!("{other:?}"),
    }
    assert!(forwarder.flows().keys().eq(["s2cs:1:0", "s2cs:1:1"]));

    forwarder.stop();
    assert!(Client::connect(forwarder.socket()).is_err());
    forwarder.start();
    assert_eq!(forwarder.flows().len(), 2);
    forwarder.restart();
    assert!(forwarder.flows().is_empty());
    let client = Client::connect(forwarder.socket()).unwrap();
    assert_ne!(client.instance().map(str::to_owned), instance);
}
