//! TLS of lango's own, client certificates, CORS and limits, through the real server.

use crate::support::server::answer;
use crate::support::{TestDb, TestServer, add_client, both_databases, until};
use lango::access::clients::{self, Client};
use lango::access::registration::thumbprint;
use lango::access::{generate_secret, hash_secret};
use lango::store::Store;
use reqwest::{Certificate, Identity};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use std::path::{Path, PathBuf};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls").join(name)
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(data(name)).unwrap()
}

/// A client that believes the test CA, and shows this certificate.
fn client(own: Option<&str>) -> reqwest::Client {
    let builder = reqwest::Client::builder().no_proxy().tls_certs_only([Certificate::from_pem(&read("ca.pem")).unwrap()]);
    let builder = match own {
        Some(name) => {
            let pem = [read(&format!("{name}.pem")), read(&format!("{name}.key"))].concat();
            builder.identity(Identity::from_pem(&pem).unwrap())
        }
        None => builder,
    };
    builder.tls_info(true).build().unwrap()
}

/// The certificate that a new connection is shown.
async fn shown(server: &TestServer) -> String {
    let response = client(None).get(server.url("/livez")).send().await.unwrap();
    let info = response.extensions().get::<reqwest::tls::TlsInfo>().unwrap();
    thumbprint(&CertificateDer::from(info.peer_certificate().unwrap().to_vec()))
}

fn digest(name: &str) -> String {
    thumbprint(&CertificateDer::from_pem_file(data(name)).unwrap())
}

async fn encrypted(db: &TestDb, folder: &Path) -> TestServer {
    TestServer::start(db, |settings| {
        settings.tls.certificate = Some(folder.join("server.pem"));
        settings.tls.key = Some(folder.join("server.key"));
        settings.tls.client_ca = Some(data("ca.pem"));
    })
    .await
}

fn install(folder: &Path, name: &str) {
    std::fs::copy(data(&format!("{name}.key")), folder.join("server.key")).unwrap();
    std::fs::copy(data(&format!("{name}.pem")), folder.join("server.pem")).unwrap();
}

both_databases!(
    async fn a_changed_certificate_is_used_without_dropping_connections(db: &TestDb) {
        let folder = tempfile::tempdir().unwrap();
        install(folder.path(), "server-1");
        let server = encrypted(db, folder.path()).await;
        assert!(server.base.starts_with("https://"), "{}", server.base);
        let kept = client(None);
        assert_eq!(kept.get(server.url("/livez")).send().await.unwrap().status(), 200);
        assert_eq!(shown(&server).await, digest("server-1.pem"));
        install(folder.path(), "server-2");
        until("the new certificate is used", async || shown(&server).await == digest("server-2.pem")).await;
        assert_eq!(kept.get(server.url("/livez")).send().await.unwrap().status(), 200, "the old connection goes on");
        std::fs::write(folder.path().join("server.pem"), "rubbish").unwrap();
        assert_eq!(shown(&server).await, digest("server-2.pem"), "what cannot be read changes nothing");
        let (_, configuration) = answer(kept.get(server.url("/fhir/.well-known/smart-configuration"))).await;
        assert_eq!(configuration["token_endpoint"], json!(server.url("/auth/token")));
        server.stop().await;
    }
);

both_databases!(
    async fn a_client_that_is_bound_to_a_certificate_needs_it_everywhere(db: &TestDb) {
        let folder = tempfile::tempdir().unwrap();
        install(folder.path(), "server-1");
        let server = encrypted(db, folder.path()).await;
        let store = Store::open(&db.url).await.unwrap();
        let secret = generate_secret().unwrap();
        let bound = Client {
            secret_hash: Some(hash_secret(&secret).unwrap()),
            certificate: Some(digest("client-1.pem")),
            ..Client::new("bound", "HF-1", "system/*.rs")
        };
        clients::add(&store, &bound).await.unwrap();
        let free = add_client(db, "free", "HF-1", "system/*.rs").await;
        let ask = |with: Option<&'static str>, id: &'static str, secret: String| {
            let form = format!("grant_type=client_credentials&client_id={id}&client_secret={secret}");
            let request = client(with).post(server.url("/auth/token")).header("content-type", "application/x-www-form-urlencoded");
            answer(request.body(form))
        };
        let (status, granted) = ask(Some("client-1"), "bound", secret.expose().to_owned()).await;
        assert_eq!(status, 200, "{granted}");
        let token = granted["access_token"].as_str().unwrap();
        for (with, status) in [(Some("client-1"), 200), (Some("client-2"), 401), (None, 401)] {
            assert_eq!(answer(client(with).get(server.url("/fhir/Patient")).bearer_auth(token)).await.0, status, "{with:?}");
            assert_eq!(ask(with, "bound", secret.expose().to_owned()).await.0, status, "{with:?}");
            let hdu = client(with).get(server.url("/api/v1/hduApi/unmapped")).basic_auth("bound", Some(secret.expose()));
            assert_eq!(answer(hdu).await.0, status, "{with:?}");
        }
        assert_eq!(ask(None, "free", free).await.0, 200, "others need none");
        server.stop().await;
    }
);

both_databases!(
    async fn browsers_are_told_which_pages_may_call(db: &TestDb) {
        let server = TestServer::start(db, |settings| settings.cors.origins = vec!["https://app.example.org".into()]).await;
        let preflight = |origin: &'static str| {
            let request = server.client.request(reqwest::Method::OPTIONS, server.url("/fhir/Patient")).header("origin", origin);
            request.header("access-control-request-method", "GET").header("access-control-request-headers", "authorization").send()
        };
        let allowed = preflight("https://app.example.org").await.unwrap();
        assert_eq!(
            (allowed.status().as_u16(), &allowed.headers()["access-control-allow-origin"]),
            (200, &"https://app.example.org".parse().unwrap())
        );
        assert_eq!(preflight("https://evil.example").await.unwrap().headers().get("access-control-allow-origin"), None);
        let refused = server.client.get(server.url("/fhir/Patient")).header("origin", "https://app.example.org").send().await.unwrap();
        assert_eq!((refused.status().as_u16(), refused.headers().contains_key("access-control-allow-origin")), (401, true));
        assert!(refused.headers()["vary"].to_str().unwrap().contains("origin"));
        server.stop().await;
        let silent = TestServer::smart(db).await;
        let answer = silent.client.get(silent.url("/livez")).header("origin", "https://app.example.org").send().await.unwrap();
        assert!(!answer.headers().contains_key("access-control-allow-origin"));
        silent.stop().await;
    }
);

both_databases!(
    async fn who_asks_too_much_is_told_when_to_come_back(db: &TestDb) {
        let (busy, quiet) = (add_client(db, "busy", "HF-1", "system/*.rs").await, add_client(db, "quiet", "HF-1", "system/*.rs").await);
        let server = TestServer::start(db, |settings| settings.limits.requests_per_second = 1).await;
        let (busy, quiet) = (server.token("busy", &busy).await, server.token("quiet", &quiet).await);
        let mut last = None;
        for _ in 0..40 {
            let response = server.client.get(server.url("/fhir/Patient")).bearer_auth(&busy).send().await.unwrap();
            let status = response.status().as_u16();
            last = Some(response);
            if status != 200 {
                break;
            }
        }
        let last = last.unwrap();
        assert_eq!(last.status(), 429);
        assert!(last.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
        let body: serde_json::Value = serde_json::from_str(&last.text().await.unwrap()).unwrap();
        assert_eq!(body["issue"][0]["code"], json!("throttled"));
        assert_eq!(answer(server.client.get(server.url("/fhir/Patient")).bearer_auth(&quiet)).await.0, 200);
        server.stop().await;
    }
);
