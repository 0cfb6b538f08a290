//! Connections: accepted, watched over, and let go.
//!
//! Facilities sit behind links that vanish without a word. A connection that sends nothing for [`Patience::headers`] is closed, so that
//! what is left of such a link costs nothing for long; how long one request may take is the routes' own business.

use super::auth::PeerCertificate;
use super::tls::Tls;
use crate::access::registration::thumbprint;
use axum::Router;
use axum::http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// Connections at once; more wait to be accepted.
const AT_ONCE: usize = 8192;
/// After an accept that failed, since the system has no file descriptor left.
const BREATH: Duration = Duration::from_millis(200);

/// Where a request came from; an extension of every request.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub IpAddr);

/// How long the server waits for its clients.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a request's headers, counted from the connection's start or from the last answer.
    pub headers: Duration,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For requests in flight when the server shuts down.
    pub drain: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { headers: Duration::from_secs(75), handshake: Duration::from_secs(10), drain: Duration::from_secs(30) }
    }
}

/// Serves until `shutdown`, over TLS if there is a certificate; then accepts no more, lets requests in flight end, and cuts those that take too long.
pub async fn serve(listener: TcpListener, router: Router, tls: Option<Tls>, patience: Patience, shutdown: impl Future<Output = ()>) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (listener.accept().await, place)
        };
        let (stream, place, peer) = tokio::select! {
            (accepted, place) = accepted => match accepted {
                Ok((stream, address)) => (stream, place, PeerAddress(address.ip())),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        // Answers are written whole; waiting for more to send only delays them.
        stream.set_nodelay(true).ok();
        let (watcher, router, tls) = (graceful.watcher(), router.clone(), tls.clone());
        tokio::spawn(async move {
            let ended = match tls {
                None => watcher.watch(connection(stream, router, (peer, None), patience)).await,
                Some(tls) => match encrypted(stream, &tls, patience).await {
                    Ok((stream, certificate)) => watcher.watch(connection(stream, router, (peer, certificate), patience)).await,
                    Err(error) => Err(error.into()),
                },
            };
            if let Err(error) = ended {
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

type Encrypted = tokio_rustls::server::TlsStream<TcpStream>;

/// The TLS handshake, and who the other side proved to be.
async fn encrypted(stream: TcpStream, tls: &Tls, patience: Patience) -> std::io::Result<(Encrypted, Option<PeerCertificate>)> {
    let handshake = TlsAcceptor::from(tls.config()).accept(stream);
    let stream = tokio::time::timeout(patience.handshake, handshake).await.map_err(|_| std::io::ErrorKind::TimedOut)??;
    let certificates = stream.get_ref().1.peer_certificates();
    let peer = certificates.and_then(<[_]>::first).map(|certificate| PeerCertificate(thumbprint(certificate).into()));
    Ok((stream, peer))
}

fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    router: Router,
    (peer, certificate): (PeerAddress, Option<PeerCertificate>),
    patience: Patience,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = Box<dyn std::error::Error + Send + Sync>> + Send {
    // HTTP/2 without TLS is spoken by nobody here, and telling it from HTTP/1 would wait for the first bytes without end.
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(patience.headers);
    let service = router.map_request(move |mut request: Request<_>| {
        request.extensions_mut().insert(peer);
        if let Some(certificate) = &certificate {
            request.extensions_mut().insert(certificate.clone());
        }
        request
    });
    builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).into_owned()
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
        let serving = tokio::spawn(serve(listener, router, None, patience, async {
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

    const BRIEF: Patience =
        Patience { headers: Duration::from_millis(200), handshake: Duration::from_millis(200), drain: Duration::from_millis(600) };

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
