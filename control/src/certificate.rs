//! Certificates from PEM files: the server's own with its key, and CAs.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::SignatureAlgorithm;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::file::FileError;

/// A certificate chain with its key, for TLS, and what `--check` tells about it.
#[derive(Debug)]
pub struct Certificate {
    /// What TLS shows and signs with.
    pub certified: Arc<CertifiedKey>,
    /// Host names and addresses that it is for (RFC 5280 section 4.2.1.6).
    pub names: Vec<String>,
    /// When it ends.
    pub expires: SystemTime,
}

impl Certificate {
    /// Reads PEM files.
    ///
    /// # Errors
    /// A file cannot be read, holds none, key and certificate do not belong together, or clients could not do with
    /// the key: those of SciStream know RSA and ECDSA only.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, FileError> {
        let whole = |path: &Path, message: String| FileError::whole(&path.display().to_string(), message);
        let chain = read(certificate)?;
        let first = chain.first().map(AsRef::as_ref).unwrap_or_default();
        let (names, expires) = describe(first).map_err(|message| whole(certificate, message))?;
        let private = PrivateKeyDer::from_pem_file(key)
            .map_err(|e| unreadable(key, e, "a private key, PEM without password"))?;
        let certified = CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider())
            .map_err(|e| whole(key, format!("is not usable with {}: {e}", certificate.display())))?;
        if !matches!(certified.key.algorithm(), SignatureAlgorithm::RSA | SignatureAlgorithm::ECDSA) {
            let message =
                "SciStream's clients know RSA and ECDSA keys only; make one with P-256, as `s2cs init` does";
            return Err(whole(key, message.to_owned()));
        }
        Ok(Self { certified: Arc::new(certified), names, expires })
    }
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// It cannot be read, or holds none.
pub fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|e| unreadable(path, e, "a certificate, PEM"))?;
    if found.is_empty() {
        let message = "holds no certificate; it must be a PEM file with \"BEGIN CERTIFICATE\"";
        return Err(FileError::whole(&path.display().to_string(), message));
    }
    Ok(found)
}

fn unreadable(path: &Path, error: pem::Error, wanted: &str) -> FileError {
    match error {
        pem::Error::Io(source) => FileError::Read { path: path.to_owned(), source },
        error => FileError::whole(&path.display().to_string(), format!("holds not {wanted} ({error})")),
    }
}

fn describe(der: &[u8]) -> Result<(Vec<String>, SystemTime), String> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|e| format!("is no X.509 certificate: {e}"))?;
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names =
        alternative.into_iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(octets) => address(octets),
            _ => None,
        });
    let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
    Ok((names.collect(), SystemTime::UNIX_EPOCH + Duration::from_secs(end)))
}

fn address(octets: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(octets).map(std::net::IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(std::net::IpAddr::from)).ok().map(|ip| ip.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::Watched;

    #[test]
    fn a_renewed_pair_is_taken_when_both_files_fit() {
        let dir = tempfile::tempdir().unwrap();
        let [certificate, key] = ["c", "k"].map(|name| dir.path().join(name));
        let made = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let [old, new] = [made("old.example"), made("new.example")];
        std::fs::write(&certificate, old.cert.pem()).unwrap();
        std::fs::write(&key, old.signing_key.serialize_pem()).unwrap();
        let (of, with) = (certificate.clone(), key.clone());
        let watched =
            Watched::open(vec![of.clone(), with.clone()], move || Certificate::load(&of, &with)).unwrap();
        // A new file each, as tools that renew certificates leave.
        let replace = |path: &Path, text: String| {
            std::fs::write(dir.path().join("new"), text).unwrap();
            std::fs::rename(dir.path().join("new"), path).unwrap();
        };
        replace(&certificate, new.cert.pem());
        let error = watched.refresh().unwrap().unwrap_err().to_string();
        assert!(error.contains("is not usable with"), "{error}");
        assert_eq!(watched.get().names, ["old.example"]);
        replace(&key, new.signing_key.serialize_pem());
        assert_eq!(watched.refresh().unwrap().unwrap().names, ["new.example"]);
    }
}
