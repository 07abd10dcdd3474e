//! QUIC (RFC 9000) across the relay: connections that survive a change of the client's address or port.

use std::fs;
use std::time::Duration;

use bench::stream::Carrier;
use bench::topology::{Family, Place, Relay, ports};
use bench::traffic;
use forwarder::api::Proto;

use crate::harness::{connections, relay};

/// Before and after the change the client is another one to its gateway, and the gateway another one to the next: both
/// must have carried a good part of the stream.
fn both_paths_were_used(relay: &Relay, family: Family) {
    for gateway in relay.gateways() {
        let used = connections(gateway, Proto::Udp, ports::QUIC, family);
        assert_eq!(used.len(), 2, "{}: {used:?}", gateway.netns.name());
        assert!(used.iter().all(|c| c.to_client.bytes > 1_000_000), "{}: {used:?}", gateway.netns.name());
    }
}

fn a_change_is_survived(to: Option<Place>) {
    relay(|relay| {
        for family in Family::ALL {
            let home = Place::CONSUMER.ip(family).to_string();
            let to = to.map(|place| place.ip(family).to_string());
            let mut args =
                vec!["--bytes", "40M", "--duplex", "--verify", "--bind", &home, "--rebind-after", "20M"];
            if let Some(to) = &to {
                args.extend(["--rebind-to", to]);
            }
            let report = traffic::stream(relay, Carrier::Quic, family, &args).unwrap();
            assert_eq!(report["bytes_down"], 40_000_000, "{report}");
            assert_eq!(report["bytes_up"], 40_000_000, "{report}");
            assert_ne!(report["rebound"][0]["from"], report["rebound"][0]["to"], "{report}");
            both_paths_were_used(relay, family);
        }
    });
}

#[test]
fn a_change_of_the_clients_port_is_survived() {
    a_change_is_survived(None);
}

#[test]
fn a_change_of_the_clients_address_is_survived() {
    a_change_is_survived(Some(Place::ROAMED));
}

#[test]
fn a_foreign_client_and_server_survive_a_change_of_port() {
    relay(|relay| {
        let dir = relay.producer.dir().to_owned();
        let (served, fetched) = (dir.join("served"), dir.join("fetched"));
        fs::create_dir(&served).unwrap();
        fs::create_dir(&fetched).unwrap();
        let mut content = vec![0; 50_000_000];
        bench::stream::pattern::Pattern::new(5).fill(0, &mut content);
        fs::write(served.join("data"), &content).unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["producer".to_owned()]).unwrap();
        let (key, cert) = (dir.join("key.pem"), dir.join("cert.pem"));
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        fs::write(&cert, made.cert.pem()).unwrap();

        let port = ports::QUIC.to_string();
        for family in Family::ALL {
            let at = Place::PRODUCER.ip(family).to_string();
            let docs = format!("--htdocs={}", served.display());
            let args = ["-q", &docs, &at, &port, key.to_str().unwrap(), cert.to_str().unwrap()];
            let mut server = relay.producer.spawn("gtlsserver", &args).unwrap();
            server.wait_for("document root", Duration::from_secs(10)).unwrap();
            let to = Place::CONSUMER_GATEWAY.ip(family).to_string();
            let down = format!("--download={}", fetched.display());
            let mut client =
                vec!["-q", "--no-quic-dump", "--no-http-dump", "--exit-on-all-streams-close", &down];
            client.extend(["--change-local-addr=100ms", &to, &port, "https://producer/data"]);
            relay.consumer.output("gtlsclient", &client, Duration::from_secs(60)).unwrap();
            assert!(fs::read(fetched.join("data")).unwrap() == content, "{family:?}: the file came changed");
            fs::remove_file(fetched.join("data")).unwrap();
            both_paths_were_used(relay, family);
        }
    });
}
