//! The client library against a real control socket.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Fixture, spec};
use control::client::{Client, ClientError};
use forwarder::api::{ErrorCode, FlowSpec, MAX_LINE, Reply, Request};

#[test]
fn one_connection_carries_many_calls_and_survives_their_errors() {
    let fixture = Fixture::new();
    let mut client = Client::connect(fixture.socket()).unwrap();
    assert!(client.server().starts_with("s2ds "), "{}", client.server());
    for _ in 0..100 {
        assert!(matches!(client.call(Request::FlowList), Ok(Reply::Flows { .. })));
        match client.call(Request::FlowShow { name: "conflict".into() }) {
            Err(ClientError::Api(error)) => assert_eq!(error.code, ErrorCode::Conflict),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fixture.asked().len(), 200);
}

#[test]
fn a_call_that_is_too_long_is_not_sent_and_others_are() {
    let fixture = Fixture::new();
    let mut client = Client::connect(fixture.socket()).unwrap();
    let prefix = "10.1.0.0/16".parse().unwrap();
    let from = vec![prefix; MAX_LINE];
    match client.call(Request::FlowAdd { spec: FlowSpec { from, ..spec() } }) {
        Err(ClientError::Api(error)) => {
            assert_eq!(error.code, ErrorCode::BadRequest);
            assert!(error.message.contains("longer than"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(client.call(Request::FlowList), Ok(Reply::Flows { .. })));
    assert_eq!(fixture.asked(), [Request::FlowList]);
}

#[test]
fn a_run_of_the_forwarder_has_a_name_that_no_other_has() {
    let (first, second) = (Fixture::new(), Fixture::new());
    let instance = |fixture: &Fixture| {
        let client = Client::connect(fixture.socket()).unwrap();
        client.instance().unwrap().to_owned()
    };
    assert_eq!(instance(&first), instance(&first));
    assert_ne!(instance(&first), instance(&second));
    assert!(instance(&first).len() == 32 && instance(&first).bytes().all(|b| b.is_ascii_hexdigit()));
}

#[test]
fn a_forwarder_that_ends_is_said_to_have_ended() {
    let mut fixture = Fixture::new();
    let mut client = Client::connect(fixture.socket()).unwrap();
    fixture.running.take().unwrap().stop();
    assert!(matches!(client.call(Request::FlowList), Err(ClientError::Broken { .. })));
    assert!(matches!(Client::connect(fixture.socket()), Err(ClientError::NotRunning { .. })));
}
