//! TLS: the certificate and key of `[tls]`, read again when their files change, and client certificates where they are wanted.
//!
//! Connections that are open stay as they were made; new ones get what the files held last. A change that cannot be read is logged
//! and leaves the old certificate in use.

use anyhow::Context;
use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How often the files are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// The files of `[tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Who signs the certificates of clients; `None`: clients show none.
    pub client_ca: Option<PathBuf>,
}

/// What new connections are made with.
#[derive(Clone)]
pub struct Tls {
    files: Arc<Files>,
    /// When the files had changed last before they were read.
    seen: Times,
    current: Arc<ArcSwap<ServerConfig>>,
}

impl Tls {
    /// Reads the files.
    pub fn open(files: Files) -> anyhow::Result<Tls> {
        let seen = times(&files);
        let config = read(&files)?;
        Ok(Tls { files: Arc::new(files), seen, current: Arc::new(ArcSwap::from_pointee(config)) })
    }

    /// What a connection that begins now is made with.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Reads the files again whenever they change; ends only when it is dropped.
    pub async fn watch(self) {
        let mut seen = self.seen;
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            let now = times(&self.files);
            if now == seen {
                continue;
            }
            let files = Arc::clone(&self.files);
            match tokio::task::spawn_blocking(move || read(&files)).await {
                Ok(Ok(config)) => {
                    self.current.store(Arc::new(config));
                    tracing::info!("new connections use the changed certificate");
                    seen = now;
                }
                // Half-written files, above all: the next look finds them whole.
                Ok(Err(error)) => tracing::warn!(error = format!("{error:#}"), "the changed certificate cannot be used; the old one stays"),
                Err(_) => return,
            }
        }
    }
}

type Times = [Option<SystemTime>; 3];

fn times(files: &Files) -> Times {
    let of = |path: &Path| std::fs::metadata(path).and_then(|data| data.modified()).ok();
    [of(&files.certificate), of(&files.key), files.client_ca.as_deref().and_then(of)]
}

fn read(files: &Files) -> anyhow::Result<ServerConfig> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).with_context(|| format!("{} holds no private key in PEM", files.key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // TLS 1.2 and 1.3, which is what SMART asks for.
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file)? {
                roots.add(certificate).with_context(|| format!("{} holds a certificate that signs nothing", file.display()))?;
            }
            // Whoever has no certificate may connect; clients that are bound to one are refused without it.
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated().build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).context("certificate and key of [tls] do not belong together")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || -> Result<Vec<_>, rustls::pki_types::pem::Error> { CertificateDer::pem_file_iter(file)?.collect() };
    let chain = read().with_context(|| format!("{} holds no certificates in PEM", file.display()))?;
    anyhow::ensure!(!chain.is_empty(), "{} holds no certificate", file.display());
    Ok(chain)
}
