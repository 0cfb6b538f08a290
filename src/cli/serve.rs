//! `lango serve`.

use super::Common;
use super::run::Server;
use crate::config::Overrides;
use anyhow::Context;
use std::io::Write;
use std::process::ExitCode;
use tokio::net::TcpListener;

/// Run the server until SIGTERM or SIGINT
#[derive(Debug, clap::Args)]
pub struct Serve {
    /// Address and port; port 0 picks a free one
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// smart: clients with scopes; open: everybody may do everything, on loopback addresses only
    #[arg(long, value_name = "MODE")]
    auth: Option<String>,
}

impl Serve {
    pub(super) async fn run(self, common: &Common) -> anyhow::Result<ExitCode> {
        let settings = common.settings(Overrides { listen: self.listen, auth: self.auth, database: None })?;
        // Before anything is announced, so that no signal is missed.
        let mut shutdown = Box::pin(shutdown_signal()?);
        let listener = TcpListener::bind(settings.listen)
            .await
            .with_context(|| format!("cannot listen on {}: choose another address with --listen", settings.listen))?;
        // What a start has to do may take long, and can be interrupted.
        let server = tokio::select! {
            server = Server::prepare(settings, listener) => server?,
            () = &mut shutdown => return Ok(ExitCode::SUCCESS),
        };
        // The one line on standard output; whoever started us reads it.
        let mut out = std::io::stdout().lock();
        writeln!(out, "lango listening on {}://{}", server.scheme(), server.address())?;
        out.flush()?;
        drop(out);
        server.serve(shutdown).await?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Resolves at the first SIGTERM or SIGINT.
pub(super) fn shutdown_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
