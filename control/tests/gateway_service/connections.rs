//! Clients that say nothing, too much or what nobody can read, and many at once.

use std::sync::Arc;

use control::proto::gateway::*;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::common::site::{Settings, Site};
use super::{PATIENCE, User, ask, code, until};

/// A connection with TLS, and nothing said on it.
pub(crate) async fn tls(site: &Site) -> TlsStream<TcpStream> {
    _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(site.ca()).unwrap() {
        roots.add(root.unwrap()).unwrap();
    }
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(site.address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

#[tokio::test]
async fn clients_that_say_nothing_keep_nobody_waiting_and_are_hung_up_on() {
    let site = Site::new(&Settings::default());
    let mut silent = Vec::new();
    for n in 0..200 {
        let mut stream = TcpStream::connect(site.address()).await.unwrap();
        if n % 4 == 0 {
            // A record of a handshake that promises more than comes.
            stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252]).await.unwrap();
        }
        silent.push(stream);
    }
    let mut greeted = Vec::new();
    for n in 0..20 {
        let mut stream = tls(&site).await;
        if n % 2 == 0 {
            // The beginning of HTTP/2's preface.
            stream.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
        }
        greeted.push(stream);
    }
    let mut alice = User::new(&site, "alice").await;
    alice.open(ask("a")).await.unwrap();
    alice.close("a").await.unwrap();
    let ends = async |stream: &mut (dyn tokio::io::AsyncRead + Unpin + Send)| {
        // What comes before the end, such as HTTP/2 settings, is of no matter here; nor is how it ends.
        let mut said = Vec::new();
        _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await.unwrap();
    };
    for mut stream in silent {
        ends(&mut stream).await;
    }
    for mut stream in greeted {
        ends(&mut stream).await;
    }
    // Who has said something may be silent.
    alice.open(ask("a")).await.unwrap();
}

#[derive(Clone, PartialEq, prost::Message)]
struct Bytes {
    #[prost(bytes, tag = "1")]
    uid: Vec<u8>,
}

#[tokio::test]
async fn a_message_too_long_or_not_of_texts_is_refused_with_its_code() {
    let site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    let long = OpenRequest { path: "x".repeat(300 * 1024), ..ask("long") };
    assert_eq!(code(alice.open(long).await), Code::ResourceExhausted);
    let long = OpenRequest { targets: vec!["10.81.0.9:7000".into(); 1025], ..ask("long") };
    assert_eq!(code(alice.open(long).await), Code::InvalidArgument);

    let mut grpc = tonic::client::Grpc::new(site.channel().await);
    for (method, of) in [("scistream.gateway.v1.Gateway", "Get"), ("scistream.Control", "release")] {
        grpc.ready().await.unwrap();
        let mut request = Request::new(Bytes { uid: vec![b'a', 0xff, 0xfe] });
        request.metadata_mut().insert("authorization", site.token("alice").parse().unwrap());
        let path = format!("/{method}/{of}").parse().unwrap();
        let codec = ProstCodec::<Bytes, Bytes>::default();
        assert_eq!(code(grpc.unary(request, path, codec).await), Code::InvalidArgument);
    }
    alice.open(ask("good")).await.unwrap();
}

#[tokio::test]
async fn reflection_lists_both_services() {
    let site = Site::new(&Settings::default());
    let mut reflection = ServerReflectionClient::new(site.channel().await);
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let request = ServerReflectionRequest { host: String::new(), message_request };
    let answer = reflection.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
    let answer = answer.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["scistream.Control", "scistream.gateway.v1.Gateway", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|n| n == name), "{names:?}");
    }
}

#[tokio::test]
async fn a_thousand_calls_wait_and_leave_nothing_when_their_callers_go() {
    let site = Site::new(&Settings { ports: "5100-6999", ..Settings::default() });
    let mut alice = User::new(&site, "alice").await;
    let free = alice.info().await.listeners_free;
    let mut calls = JoinSet::new();
    for connection in 0..4 {
        let user = User::new(&site, "alice").await;
        for n in 0..250 {
            let mut user = user.clone();
            calls.spawn(async move { user.req(&format!("{connection}-{n}")).await });
        }
    }
    until("all wait", async || (alice.info().await.listeners_free == free - 1000).then_some(())).await;
    assert_eq!(code(alice.req("more").await), Code::ResourceExhausted);
    // Others have their own place.
    User::new(&site, "bob").await.open(ask("bobs")).await.unwrap();
    alice.hello("2-100").await.unwrap();
    let answer = calls.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(answer.prod_listeners, ["10.81.0.9:7000"]);
    assert_eq!(answer.listeners, [alice.get("2-100").await.unwrap().listeners[0].address.as_str()]);
    drop(calls);
    until("all are given up", async || (alice.list().await.len() == 1).then_some(())).await;
    assert_eq!(alice.info().await.listeners_free, free - 2);
    alice.release("2-100").await.unwrap();
    assert_eq!(alice.info().await.listeners_free, free - 1);
}
