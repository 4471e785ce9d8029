//! The certificate of the server and its key, as TLS needs them.

use std::{fmt, sync::Arc};

use sha2::{Digest as _, Sha256};
use tokio_rustls::rustls::{
    self, ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
};

use super::{ConfigError, secret_file};

/// What connections over TLS are served with. Equal if it was read from equal files.
#[derive(Clone)]
pub struct Tls {
    server: Arc<ServerConfig>,
    digest: [u8; 32],
}

/// hyper is built for this one only.
const PROTOCOL: &[u8] = b"http/1.1";

const CERTIFICATE: &str = "certificate";
const PRIVATE_KEY: &str = "private key";

impl Tls {
    /// Reads certificate and key, and checks that they belong together.
    pub(super) fn read(cert_file: &str, key_file: &str) -> Result<Self, ConfigError> {
        let cert = secret_file::read_public(cert_file, CERTIFICATE)?;
        let key = secret_file::read(key_file, PRIVATE_KEY)?;
        let digest = Sha256::new().chain_update(&cert).chain_update([0]).chain_update(&key).finalize().into();
        let refuse_cert = |problem| refuse(CERTIFICATE, cert_file, problem);
        let refuse_key = |problem| refuse(PRIVATE_KEY, key_file, problem);
        let chain: Vec<_> = CertificateDer::pem_slice_iter(cert.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| refuse_cert(format!("is not PEM: {error}")))?;
        if chain.is_empty() {
            return Err(refuse_cert("is missing: the file has no PEM block `BEGIN CERTIFICATE`".into()));
        }
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| {
            refuse_key(match error {
                pem::Error::NoItemsFound => {
                    "is missing: the file has no PEM block `BEGIN PRIVATE KEY`, or it is encrypted".into()
                }
                other => format!("is not PEM: {other}"),
            })
        })?;
        let server = server(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                refuse_key(format!("does not belong to the certificate in {cert_file}"))
            }
            rustls::Error::InvalidCertificate(error) => refuse_cert(format!("can't be used: {error}")),
            other => refuse_key(format!("can't be used: {other}")),
        })?;
        Ok(Self { server: Arc::new(server), digest })
    }

    /// For a connection.
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }
}

fn server(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    server.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(server)
}

fn refuse(what: &'static str, origin: &str, problem: String) -> ConfigError {
    ConfigError::Secret { what, origin: origin.to_owned(), problem }
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Tls {}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(…)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

    use rcgen::{CertifiedKey, generate_simple_self_signed};

    use super::*;

    fn write(folder: &Path, name: &str, text: &str) -> String {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn pair(folder: &Path, name: &str) -> (String, String) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let cert = write(folder, &format!("{name}.cert"), &cert.pem());
        (cert, write(folder, &format!("{name}.key"), &signing_key.serialize_pem()))
    }

    #[test]
    fn a_certificate_and_its_key_are_read_and_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = pair(folder.path(), "a");
        let (other_cert, other_key) = pair(folder.path(), "b");
        let tls = Tls::read(&cert, &key).unwrap();
        assert_eq!(tls, Tls::read(&cert, &key).unwrap());
        assert_ne!(tls, Tls::read(&other_cert, &other_key).unwrap());
        assert_eq!(tls.server().alpn_protocols, [b"http/1.1"]);

        let refused = |cert: &str, key: &str| Tls::read(cert, key).unwrap_err().to_string();
        let text = write(folder.path(), "text", "nothing of the kind\n");
        let broken =
            write(folder.path(), "broken", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n");
        let empty = write(folder.path(), "empty", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n");
        for (cert, key, problem) in [
            ("/no/cert", key.as_str(), "cannot read the certificate in /no/cert".to_owned()),
            (&cert, "/no/key", "cannot read the private key in /no/key".into()),
            (&text, &key, format!("the certificate in {text} is missing")),
            (&key, &key, format!("the certificate in {key} is missing")),
            (&broken, &key, format!("the certificate in {broken} is not PEM")),
            (&empty, &key, format!("the certificate in {empty} can't be used")),
            (&cert, &text, format!("the private key in {text} is missing")),
            (&cert, &cert, format!("the private key in {cert} is missing")),
            (
                &cert,
                &other_key,
                format!("the private key in {other_key} does not belong to the certificate in {cert}"),
            ),
        ] {
            let refused = refused(cert, key);
            assert!(refused.starts_with(&problem), "{refused}");
        }
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(refused(&cert, &key).contains("mode 0644"));
    }
}
