//! Connections: accepted, watched over, and let go.
//!
//! Facilities sit behind links that vanish without a word. A connection that sends nothing for [`Patience::headers`] is closed, so that
//! what is left of such a link costs nothing for long; how long one request may take is the routes' own business. So is one that takes nothing of its
//! answer for [`Patience::taking`], or whoever asks and never reads would hold answers, and places for others, as long as they like.

use super::auth::PeerCertificate;
use super::tls::Tls;
use crate::access::registration::thumbprint;
use axum::Router;
use axum::http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Sleep;
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
    /// For a client to take the next part of an answer.
    pub taking: Duration,
    /// For requests in flight when the server shuts down.
    pub drain: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Patience { headers: seconds(75), handshake: seconds(10), taking: seconds(60), drain: seconds(30) }
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
        let stream = Watched { stream, patience: patience.taking, stalled: None };
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

/// A connection whose other side takes what is written to it, or is given up.
struct Watched {
    stream: TcpStream,
    patience: Duration,
    /// Since when it takes nothing: ends when that has been too long.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Watched {
    fn taken(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        stalled.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.taken(context, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.taken(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

type Encrypted = tokio_rustls::server::TlsStream<Watched>;

/// The TLS handshake, and who the other side proved to be.
async fn encrypted(stream: Watched, tls: &Tls, patience: Patience) -> io::Result<(Encrypted, Option<PeerCertificate>)> {
    let handshake = TlsAcceptor::from(tls.config()).accept(stream);
    let stream = tokio::time::timeout(patience.handshake, handshake).await.map_err(|_| io::ErrorKind::TimedOut)??;
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
        let router = Router::new().route("/", get(|| async { "here" })).route("/large", get(|| async { vec![0; LARGE] })).route(
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

    const SOON: Duration = Duration::from_millis(200);
    const BRIEF: Patience = Patience { headers: SOON, handshake: SOON, taking: SOON, drain: Duration::from_millis(600) };
    /// Bytes that no buffers between two programs hold.
    const LARGE: usize = 64 << 20;

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
    async fn a_client_that_does_not_take_its_answer_is_let_go() {
        let (address, _stop, _serving) = server(BRIEF).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        tokio::time::sleep(BRIEF.taking * 5).await;
        let mut answer = Vec::new();
        // What was on its way comes still, and then the end, whichever way the system tells it.
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.expect("it is let go");
        assert!(answer.starts_with(b"HTTP/1.1 200") && answer.len() < LARGE, "{}", answer.len());
        assert!(say(address, "GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.len() > LARGE, "who takes it gets it");
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
