//! One server, from settings to the last answer; what `lango serve` and the tests run.

use crate::access::{Access, AccessSettings, BETWEEN_FETCHES};
use crate::app::App;
use crate::config::{AuthMode, Settings};
use crate::http::audit::Auditor;
use crate::http::connections::Patience;
use crate::http::limits::Limiter;
use crate::http::picker::Patients;
use crate::http::tls::{Files, Tls};
use crate::http::{self, FhirState};
use crate::search::CursorKey;
use anyhow::Context;
use axum::Router;
use axum::http::{HeaderValue, header};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::set_header::SetResponseHeaderLayer;

/// A server that is ready to answer: its database is open and up to date, its address bound.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    app: App,
    tls: Option<Tls>,
}

/// Serves until `shutdown`, then answers what is in flight and closes the database.
pub async fn run(settings: Settings, listener: TcpListener, shutdown: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<()> {
    Server::prepare(settings, listener).await?.serve(shutdown).await
}

impl Server {
    /// Opens everything that can fail. Clients may connect already; they wait.
    pub async fn prepare(settings: Settings, listener: TcpListener) -> anyhow::Result<Server> {
        let address = listener.local_addr()?;
        if settings.auth == AuthMode::Open && !address.ip().is_loopback() {
            anyhow::bail!(
                "--auth open gives every caller full rights, so it is refused on {address}: listen on 127.0.0.1, or use --auth smart"
            );
        }
        let tls = match (&settings.tls.certificate, &settings.tls.key) {
            (Some(certificate), Some(key)) => {
                let files = Files { certificate: certificate.clone(), key: key.clone(), client_ca: settings.tls.client_ca.clone() };
                Some(Tls::open(files)?)
            }
            _ => None,
        };
        let app = App::open(settings.clone(), &settings.public_url(address)).await?;
        app.recover().await?;
        let store = app.store.clone();
        let access_settings = AccessSettings {
            mode: settings.auth,
            public_url: settings.public_url(address),
            operator_code: settings.operator.code.clone(),
            issuers: settings.issuers.clone(),
            between_fetches: BETWEEN_FETCHES,
            facility_system: settings.systems.facility.clone(),
            practitioner_system: settings.systems.practitioner.clone(),
            zone: app.zone.clone(),
            deployment: settings.consent.deployment(),
        };
        let access = Arc::new(Access::open(store.clone(), access_settings).await.context("the signing keys cannot be read")?);
        let metrics = Arc::new(http::ops::Metrics::new(app.gauges.clone()));
        let cursor_key = CursorKey::new(&access.secret("lango 2026 page tokens")?);
        let auditor = settings.records().then(|| Auditor::new(store.clone(), &settings.limits));
        let fhir = http::fhir::routes(FhirState::new(app.clone(), cursor_key));
        let followed = |router: Router| match &auditor {
            Some(auditor) => router.layer(axum::middleware::from_fn_with_state(auditor.clone(), http::audit::follow)),
            None => router,
        };
        let router = Router::new()
            .merge(http::oauth::routes(Arc::clone(&access)))
            .merge(http::login::routes(Arc::clone(&access), Patients::new(followed(fhir.clone()))))
            .merge(http::console::routes(Arc::clone(&access), store.clone()))
            .merge(http::front::routes(Arc::clone(&access)))
            .merge(fhir)
            .merge(http::hdu::routes(app.clone()))
            .merge(http::ops::routes(Arc::clone(&metrics), store.clone(), app.pulse.clone()))
            .fallback(http::fhir::nowhere)
            .method_not_allowed_fallback(http::fhir::not_so)
            .layer(axum::middleware::from_fn_with_state(Limiter::new(&settings.limits), http::limits::limit));
        let mut router = followed(router).layer(axum::middleware::from_fn_with_state(Arc::clone(&access), http::auth::authenticate));
        if let Some(auditor) = auditor {
            router = router.layer(axum::middleware::from_fn_with_state(auditor, http::audit::refused));
        }
        let router = router
            .layer(axum::middleware::from_fn_with_state(access, http::in_words::in_words))
            .layer(http::limits::cors(&settings.cors.origins))
            // An answer is good for one caller, at one moment.
            .layer(SetResponseHeaderLayer::if_not_present(header::CACHE_CONTROL, HeaderValue::from_static("no-store")))
            // A browser takes nothing for what it is not said to be.
            .layer(SetResponseHeaderLayer::if_not_present(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")))
            .layer(SetResponseHeaderLayer::appending(header::VARY, HeaderValue::from_static("authorization")))
            .layer(axum::middleware::from_fn_with_state(metrics, http::ops::measure));
        tracing::info!(%address, database = %settings.database, auth = ?settings.auth, "ready");
        Ok(Server { listener, address, router, app, tls })
    }

    /// `https` when it has a certificate, else `http`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Where the server listens, with its real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then answers what is in flight and closes the database.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<()> {
        let stop = CancellationToken::new();
        let background = tokio::spawn(self.app.clone().background(stop.clone()));
        let patience = Patience::default();
        let watching = self.tls.clone().map(|tls| tokio::spawn(tls.watch()));
        http::connections::serve(self.listener, self.router, self.tls, patience, shutdown).await;
        if let Some(watching) = watching {
            watching.abort();
        }
        stop.cancel();
        // A delivery in flight ends by its own time-out; what is cut is tried again by the next process.
        if tokio::time::timeout(patience.drain, background).await.is_err() {
            tracing::warn!("a delivery did not end in time; it will be tried again");
        }
        self.app.store.close().await;
        tracing::info!("stopped");
        Ok(())
    }
}
