//! One server, from settings to the last answer; what `lango serve` and the tests run.

use crate::access::{Access, AccessSettings};
use crate::config::{AuthMode, Settings};
use crate::http;
use crate::store::Store;
use anyhow::Context;
use axum::Router;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// How long requests in flight have to end after the signal; then their connections are cut.
const DRAIN: Duration = Duration::from_secs(30);

/// A server that is ready to answer: its database is open and up to date, its address bound.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    store: Store,
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
        let store = super::open_store(&settings).await?;
        let access_settings =
            AccessSettings { mode: settings.auth, public_url: settings.public_url(address), operator_code: settings.operator.code.clone() };
        let access = Arc::new(Access::open(store.clone(), access_settings).await.context("the signing keys cannot be read")?);
        let metrics = Arc::new(http::ops::Metrics::default());
        let router = Router::new()
            .merge(http::auth::routes(Arc::clone(&access)))
            .merge(http::ops::routes(Arc::clone(&metrics), store.clone()))
            .layer(axum::middleware::from_fn_with_state(access, http::auth::authenticate))
            .layer(axum::middleware::from_fn_with_state(metrics, http::ops::measure));
        tracing::info!(%address, database = %settings.database, auth = ?settings.auth, "ready");
        Ok(Server { listener, address, router, store })
    }

    /// Where the server listens, with its real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then answers what is in flight and closes the database.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<()> {
        let (told, draining) = tokio::sync::oneshot::channel::<()>();
        let signal = async move {
            shutdown.await;
            tracing::info!("draining");
            let _ = told.send(());
        };
        let serving = axum::serve(self.listener, self.router).with_graceful_shutdown(signal).into_future();
        let overdue = async {
            // Without a signal the sender lives as long as the server.
            let _ = draining.await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            ended = serving => ended?,
            () = overdue => tracing::warn!("some requests did not end in time; their connections are cut"),
        }
        self.store.close().await;
        tracing::info!("stopped");
        Ok(())
    }
}
