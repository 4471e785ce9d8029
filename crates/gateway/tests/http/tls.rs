//! HTTPS, with certificates that the test makes.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use protocol::message::{FinishReason, Submission};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName},
    },
};

use crate::support::*;

/// A folder with a certificate and its key.
struct Identity {
    folder: TempDir,
    cert: CertificateDer<'static>,
}

impl Identity {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cert = Self::write(folder.path());
        Self { folder, cert }
    }

    /// Another certificate in the same files. Returns the old one.
    fn renew(&mut self) -> CertificateDer<'static> {
        std::mem::replace(&mut self.cert, Self::write(self.folder.path()))
    }

    fn write(folder: &Path) -> CertificateDer<'static> {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(folder.join("cert.pem"), cert.pem()).unwrap();
        let key = folder.join("key.pem");
        fs::write(&key, signing_key.serialize_pem()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        cert.der().clone()
    }

    /// Settings with more of the section `server`.
    fn settings(&self, more: &str) -> String {
        let folder = self.folder.path().display();
        format!("server: {{tls: {{cert_file: {folder}/cert.pem, key_file: {folder}/key.pem}}{more}}}\n")
    }
}

/// A client that trusts one certificate and offers these protocols.
async fn connect(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
    protocols: &[&str],
) -> std::io::Result<Wire<TlsStream<TcpStream>>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    soon("a handshake", TlsConnector::from(Arc::new(config)).connect(name, tcp)).await.map(Wire)
}

#[tokio::test]
async fn requests_are_answered_over_tls() {
    let identity = Identity::new();
    let (env, mut worker) = TestEnv::ready(&identity.settings("")).await;
    let address = env.listen().await;
    let mut client = connect(address, &identity.cert, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(client.0.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
    client.send("GET", "/livez", "", b"").await;
    assert_eq!(client.answer().await.1, "ok\n");

    let body = chat(json!({"stream": true})).to_string();
    client
        .send("POST", CHAT, "content-type: application/json\r\nconnection: close\r\n", body.as_bytes())
        .await;
    let id = worker.generate().await.id;
    worker.admit(id).await;
    assert!(client.answer().await.0.starts_with("http/1.1 200 "));
    worker.events(id, vec![chunk("He"), chunk("llo"), finished(FinishReason::Stop)]).await;
    let rest = client.rest().await;
    assert!(rest.contains("He") && rest.contains("llo") && rest.contains("[DONE]"), "{rest}");

    let mut plain = connect(address, &identity.cert, &[]).await.unwrap();
    plain.write("nonsense\r\n\r\n").await;
    let (head, body) = plain.answer().await;
    assert!(head.starts_with("http/1.1 400 ") && body.contains("malformed_request"), "{head}{body}");
    assert!(connect(address, &identity.cert, &["h2"]).await.is_err(), "HTTP/2 is not spoken");
}

#[tokio::test]
async fn what_is_not_tls_is_told_so() {
    let identity = Identity::new();
    let env = TestEnv::start(&identity.settings(""));
    let address = env.listen().await;
    let mut client = Wire::open(address).await;
    client.send("GET", "/livez", "", b"").await;
    let (head, body) = client.answer().await;
    assert!(head.starts_with("http/1.1 400 ") && head.contains("connection: close"), "{head}");
    assert!(body.contains("https_needed") && body.contains("https://"), "{body}");
    assert_eq!(client.rest().await, "");
    // A record of a handshake that is none.
    let mut broken = Wire::open(address).await;
    broken.write([22, 3, 1, 0, 2, 0, 0]).await;
    broken.rest().await;
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_given_up() {
    let identity = Identity::new();
    let env = TestEnv::start(&identity.settings(", header_timeout_ms: 300"));
    let address = env.listen().await;
    for begun in [[].as_slice(), &[22], &[22, 3, 1, 1, 0]] {
        let mut client = Wire::open(address).await;
        client.write(begun).await;
        assert_eq!(client.rest().await, "");
    }
}

#[tokio::test]
async fn handshakes_make_room_for_others() {
    let identity = Identity::new();
    // None of them is closed because of the time.
    let more = ", max_connections: 2, header_timeout_ms: 3600000, idle_timeout_ms: 3600000";
    let env = TestEnv::start(&identity.settings(more));
    let address = env.listen().await;
    let mut begun = Vec::new();
    for bytes in [[].as_slice(), &[22, 3, 1]] {
        let mut client = Wire::open(address).await;
        client.write(bytes).await;
        begun.push(client);
    }
    let mut others = Vec::new();
    for _ in 0..2 {
        let mut client = connect(address, &identity.cert, &[]).await.unwrap();
        client.send("GET", "/livez", "", b"").await;
        assert_eq!(client.answer().await.1, "ok\n");
        others.push(client);
    }
    for mut client in begun {
        assert_eq!(client.rest().await, "");
    }
}

#[tokio::test]
async fn another_certificate_serves_new_connections_and_old_ones_go_on() {
    let mut identity = Identity::new();
    let settings = identity.settings("");
    let mut env = TestEnv::start(&settings);
    let address = env.listen().await;
    let mut client = connect(address, &identity.cert, &[]).await.unwrap();
    let old = identity.renew();
    assert!(connect(address, &identity.cert, &[]).await.is_err(), "it has not been read yet");
    let changes = env.reload(&settings).unwrap();
    assert_eq!((changes.live.len(), changes.live[0].key), (1, "server.tls.cert_file"));
    connect(address, &identity.cert, &[]).await.unwrap();
    assert!(connect(address, &old, &[]).await.is_err());
    client.send("GET", "/livez", "", b"").await;
    assert_eq!(client.answer().await.1, "ok\n");

    fs::write(identity.folder.path().join("cert.pem"), "nothing").unwrap();
    assert!(env.reload(&settings).unwrap_err().to_string().contains("cert.pem is missing"));
    connect(address, &identity.cert, &[]).await.unwrap();
    let changes = env.reload("").unwrap();
    assert_eq!(changes.after_restart[0].key, "server.tls");
    connect(address, &identity.cert, &[]).await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_is_noticed_over_tls() {
    let identity = Identity::new();
    let settings = identity.settings(", slow_consumer_timeout_ms: 500")
        + "stream_registry: {credit_chunks: 8, adaptive_limits: {max_streams: 1}}\n";
    let (env, mut worker) = TestEnv::ready(&settings).await;
    let address = env.listen().await;
    let mut stalled = connect(address, &identity.cert, &[]).await.unwrap();
    let body = chat(json!({"stream": true})).to_string();
    stalled.send("POST", CHAT, "content-type: application/json\r\n", body.as_bytes()).await;
    let id = worker.generate().await.id;
    worker.admit(id).await;
    // It fills what the kernel, TLS and the gateway buffer, and then no more credit comes.
    let text = "x".repeat(100_000);
    let mut credit = 8;
    loop {
        for _ in 0..credit {
            worker.events(id, vec![chunk(&text)]).await;
        }
        match worker.next().await {
            Submission::Credit { chunks, .. } => credit = chunks,
            Submission::Cancel(cancelled) => break assert_eq!(cancelled, id),
            other => panic!("{other:?}"),
        }
    }
    until("a free place", || env.app.admission.metrics().streams_open.get() == 0).await;
    drop(stalled);
}
