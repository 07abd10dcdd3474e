//! Client certificates.

use control::identity::{Credentials, Invalid, Refused};
use rcgen::{CertificateParams, KeyPair, SanType, date_time_ymd};

use super::authenticator;

/// A certificate with these alternative names; who has signed it is the TLS layer's business.
fn certificate(names: &[SanType], change: impl FnOnce(&mut CertificateParams)) -> rcgen::Certificate {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.to_vec();
    params.distinguished_name.push(rcgen::DnType::CommonName, "root");
    change(&mut params);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn mail(text: &str) -> SanType {
    SanType::Rfc822Name(text.try_into().unwrap())
}

fn host(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

#[tokio::test]
async fn a_certificate_names_its_user_by_uri_then_mail_then_host() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), certificate(&[host("ca")], |_| {}).pem()).unwrap();
    let text = "[[identity]]\nkind = 'certificate'\nname = 'grid'\nca = 'ca.pem'";
    let who = authenticator(text, folder.path());
    assert_eq!(who.client_ca_files(), [folder.path().join("ca.pem")]);

    let shows = async |authorization: Option<&str>, certificate: &rcgen::Certificate| {
        who.authenticate(Credentials { authorization, certificate: Some(certificate.der()) }).await
    };
    let all =
        [host("Node.example.org"), mail("alice@example.org"), uri("spiffe://x/alice"), uri("spiffe://x/b")];
    for (names, subject) in [
        (&all[..], "spiffe://x/alice@grid"),
        (&all[..2], "alice@example.org@grid"),
        (&all[..1], "node.example.org@grid"),
    ] {
        let principal = shows(None, &certificate(names, |_| {})).await.unwrap();
        assert_eq!(principal.subject, subject);
        assert_eq!(principal.names.len(), names.len());
        assert!(principal.expires.is_some());
    }
    // Neither the common name nor an address says who it is, and no name is taken for another's subject.
    let nobody = certificate(&[SanType::IpAddress([127, 0, 0, 1].into())], |_| {});
    assert_eq!(shows(None, &nobody).await, Err(Refused::Invalid(Invalid::Subject)));
    assert!(shows(None, &certificate(&[mail("bob@grid")], |_| {})).await.unwrap().names.is_empty());
    assert_eq!(
        shows(None, &certificate(&[uri("a\nb")], |_| {})).await,
        Err(Refused::Invalid(Invalid::Subject))
    );

    let over = certificate(&all, |params| params.not_after = date_time_ymd(2020, 1, 1));
    assert_eq!(shows(None, &over).await, Err(Refused::Invalid(Invalid::Expired)));
    let early = certificate(&all, |params| params.not_before = date_time_ymd(3000, 1, 1));
    assert_eq!(shows(None, &early).await, Err(Refused::Invalid(Invalid::Early)));
    let garbage = Credentials { authorization: None, certificate: Some(b"0\x03abc") };
    assert_eq!(who.authenticate(garbage).await, Err(Refused::Invalid(Invalid::Subject)));

    // A token counts before the certificate; the old word for none is none.
    let good = certificate(&all, |_| {});
    assert_eq!(shows(Some("token"), &good).await, Err(Refused::Invalid(Invalid::Unknown)));
    shows(Some("INVALID_TOKEN"), &good).await.unwrap();
    assert_eq!(who.authenticate(Credentials::default()).await, Err(Refused::Nothing));

    let two = format!("{text}\n{}", text.replace("grid", "grid2"));
    assert!(super::problem(&two, folder.path()).contains("only one"));
}
