//! Clients' certificates, mapped by their subject alternative names (RFC 5280, section 4.2.1.6).
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::claims::{is_name, principal};
use super::{CertificateConfig, Invalid, Principal, Problem};
use crate::certificate;

/// The provider.
#[derive(Debug)]
pub(super) struct Certificate {
    name: String,
    ca: PathBuf,
}

impl Certificate {
    pub(super) fn new(config: &CertificateConfig, base: &Path) -> Result<Certificate, Problem> {
        let ca = base.join(&config.ca);
        certificate::read(&ca).map_err(|problem| ("ca", problem.to_string()))?;
        Ok(Certificate { name: config.name.clone(), ca })
    }

    pub(super) fn ca(&self) -> &Path {
        &self.ca
    }

    /// Who has this certificate, which the TLS layer has verified. Of its names the first URI is the subject, else the
    /// first e-mail address, else the first DNS name: URIs such as SPIFFE's are made to name subjects, host names are
    /// not. The common name counts for nothing: no CA is bound in what it writes there.
    pub(super) fn check(&self, der: &[u8]) -> Result<Principal, Invalid> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| Invalid::Subject)?;
        // Connections outlive the handshake's check.
        let validity = certificate.validity();
        let at = |time: x509_parser::time::ASN1Time| {
            UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
        };
        let (now, expires) = (SystemTime::now(), at(validity.not_after));
        if expires <= now {
            return Err(Invalid::Expired);
        }
        if at(validity.not_before) > now {
            return Err(Invalid::Early);
        }
        let alternatives = certificate.subject_alternative_name().map_err(|_| Invalid::Subject)?;
        let mut ranked: Vec<(u8, String)> = Vec::new();
        for general in alternatives.iter().flat_map(|extension| &extension.value.general_names) {
            match general {
                GeneralName::URI(uri) => ranked.push((0, (*uri).to_owned())),
                GeneralName::RFC822Name(mail) => ranked.push((1, (*mail).to_owned())),
                GeneralName::DNSName(host) => ranked.push((2, host.to_ascii_lowercase())),
                _ => {}
            }
        }
        ranked.sort_by_key(|(rank, _)| *rank);
        let names: Vec<String> = ranked.into_iter().map(|(_, name)| name).collect();
        let first = names.first().ok_or(Invalid::Subject)?.clone();
        let names = names.into_iter().filter(|name| is_name(name)).collect();
        principal(&self.name, &first, names, Vec::new(), Some(expires))
    }
}
