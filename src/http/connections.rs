//! Connections: accepted, watched over, and let go.
//!
//! Facilities sit behind links that vanish without a word. A connection that sends nothing for [`Patience::headers`] is closed, so that
//! what is left of such a link costs nothing for long; how long one request may take is the routes' own business.

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at once; more wait to be accepted.
const AT_ONCE: usize = 8192;
/// After an accept that failed, since the system has no file descriptor left.
const BREATH: Duration = Duration::from_millis(200);

/// How long the server waits for its clients.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a request's headers, counted from the connection's start or from the last answer.
    pub headers: Duration,
    /// For requests in flight when the server shuts down.
    pub drain: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { headers: Duration::from_secs(75), drain: Duration::from_secs(30) }
    }
}

/// Serves until `shutdown`; then accepts no more, lets requests in flight end, and cuts those that take too long.
pub async fn serve(listener: TcpListener, router: Router, patience: Patience, shutdown: impl Future<Output = ()>) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (listener.accept().await, place)
        };
        let (stream, place) = tokio::select! {
            (accepted, place) = accepted => match accepted {
                Ok((stream, _)) => (stream, place),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        let connection = graceful.watch(connection(stream, router.clone(), patience));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                // A client that went away; nothing to do about it.
                tracing::trace!(%error, "a connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    tracing::info!(connections = AT_ONCE - places.available_permits(), "draining");
    if tokio::time::timeout(patience.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time; their connections are cut");
    }
}

fn connection(
    stream: TcpStream,
    router: Router,
    patience: Patience,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = Box<dyn std::error::Error + Send + Sync>> + Send {
    // Answers are written whole; waiting for more to send only delays them.
    stream.set_nodelay(true).ok();
    // HTTP/2 without TLS is spoken by nobody here, and telling it from HTTP/1 would wait for the first bytes without end.
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(patience.headers);
    builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use std::net::SocketAddr;
    use std::time::Instant;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    async fn server(patience: Patience) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
        let router = Router::new().route("/", get(|| async { "here" })).route(
            "/slow",
            get(|| async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                "late"
            }),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(serve(listener, router, patience, async {
            stopped.await.ok();
        }));
        (address, stop, serving)
    }

    /// What the server says to these bytes before it closes the connection.
    async fn say(address: SocketAddr, bytes: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    const BRIEF: Patience = Patience { headers: Duration::from_millis(200), drain: Duration::from_millis(600) };

    #[tokio::test]
    async fn a_client_that_says_nothing_or_half_a_request_is_let_go() {
        let (address, _stop, _serving) = server(BRIEF).await;
        for bytes in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: x\r\n", "GET / HTTP/1.1\r\nhost: x\r\n\r\n"] {
            let start = Instant::now();
            let answer = tokio::time::timeout(Duration::from_secs(5), say(address, bytes)).await.expect("it is let go");
            assert!(start.elapsed() >= BRIEF.headers, "not before its time: {bytes:?}");
            assert_eq!(answer.contains("here"), bytes.ends_with("\r\n\r\n"), "{answer}");
        }
    }

    #[tokio::test]
    async fn requests_in_flight_end_when_the_server_stops() {
        let (address, stop, serving) = server(Patience { headers: Duration::from_secs(60), ..BRIEF }).await;
        let _idle = TcpStream::connect(address).await.unwrap();
        let slow = tokio::spawn(say(address, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n"));
        tokio::time::sleep(Duration::from_millis(100)).await;
        stop.send(()).unwrap();
        assert!(slow.await.unwrap().contains("late"));
        serving.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "nothing listens any more");
    }
}
