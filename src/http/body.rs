//! Request bodies, read with bounded memory: as sent, or gzip-compressed with a limit on what comes out.

use super::error::Failure;
use super::negotiate::Format;
use crate::config::Limits;
use crate::fhir::{Issue, IssueCode, json};
use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use flate2::write::MultiGzDecoder;
use futures_util::StreamExt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Text that compresses better than this was made to fill memory; honest JSON stays far below.
const MOST_RATIO: usize = 100;
/// Values (objects, lists, texts, numbers) in one body: each takes about a hundred bytes when it is read.
const MOST_VALUES: usize = 2_000_000;
/// How long the server waits for the next part of a body.
const PATIENCE: Duration = Duration::from_secs(60);
/// Up to here the ratio does not matter.
const RATIO_FREE: usize = 4 << 20;
/// What is read and thrown away of a refused body, at most, and for how long.
const DRAIN_BYTES: usize = 64 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Bodies up to here are not counted, so that large ones keep no others out: of these a client holds as many as it may make requests at once.
const SMALL: usize = 1 << 20;
/// Bytes of the bodies beyond [`SMALL`] that this process holds.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// A body's share of the memory for all; given back when nobody holds the body any more.
#[derive(Debug, Default)]
struct Share(usize);

impl Share {
    /// Makes it as large as a body of `bytes` needs; refused when all together would hold more than `most`. One alone always may.
    fn grow(&mut self, bytes: usize, most: usize) -> Result<(), Failure> {
        let more = if bytes > SMALL { bytes.saturating_sub(self.0) } else { 0 };
        let others = HELD.fetch_add(more, Ordering::Relaxed).saturating_sub(self.0);
        self.0 += more;
        if more == 0 || others == 0 || others.saturating_add(self.0) <= most {
            return Ok(());
        }
        let words = "More is being sent to the server at this moment than it holds at once: send the request again in a few seconds.";
        Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, Issue::error(IssueCode::Throttled, words)))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        HELD.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// A body and its share.
struct Held {
    bytes: Vec<u8>,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn held(bytes: Vec<u8>, share: Share) -> Bytes {
    match share.0 {
        0 => bytes.into(),
        _ => Bytes::from_owner(Held { bytes, _share: share }),
    }
}

/// Reads the body of a request, decompressed when `Content-Encoding` says gzip.
pub async fn read(headers: &HeaderMap, body: Body, limits: &Limits) -> Result<Bytes, Failure> {
    let mut chunks = body.into_data_stream();
    let read = read_stream(headers, &mut chunks, limits).await;
    if read.is_err() {
        // A client that is still sending would meet a closed connection and never see the answer.
        let _ = tokio::time::timeout(DRAIN_TIME, drain(&mut chunks)).await;
    }
    read
}

async fn drain(chunks: &mut BodyDataStream) {
    let mut left = DRAIN_BYTES;
    while let Some(Ok(chunk)) = chunks.next().await {
        match left.checked_sub(chunk.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

async fn read_stream(headers: &HeaderMap, chunks: &mut BodyDataStream, limits: &Limits) -> Result<Bytes, Failure> {
    let most = limits.body_bytes();
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<usize>().ok());
    if declared.is_some_and(|length| length > most) {
        return Err(too_large(limits.body_mb));
    }
    match encoding(headers)? {
        Encoding::Identity => read_plain(chunks, declared.unwrap_or(0), limits).await,
        Encoding::Gzip => read_gzip(chunks, limits).await,
    }
}

/// Refuses text of JSON or XML that would fill memory when it is read: `1,1,1,…` grows fiftyfold.
pub fn check_values(body: &[u8], format: Format) -> Result<(), Failure> {
    let count = match format {
        Format::Json => json::count_values(body),
        Format::Xml => body.iter().filter(|byte| **byte == b'<').count(),
    };
    if count <= MOST_VALUES {
        return Ok(());
    }
    Err(Failure::too_large(format!("The body holds more than {MOST_VALUES} values: send it in parts.")))
}

enum Encoding {
    Identity,
    Gzip,
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Failure> {
    let Some(value) = headers.get(header::CONTENT_ENCODING) else { return Ok(Encoding::Identity) };
    match value.to_str().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(Encoding::Identity),
        "gzip" | "x-gzip" => Ok(Encoding::Gzip),
        _ => {
            let issue = Issue::error(IssueCode::NotSupported, "Content-Encoding may be gzip, or left out.");
            Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, issue))
        }
    }
}

async fn read_plain(chunks: &mut BodyDataStream, expected: usize, limits: &Limits) -> Result<Bytes, Failure> {
    let most = limits.body_bytes();
    let mut share = Share::default();
    let mut whole = Vec::with_capacity(expected.min(1 << 20));
    while let Some(chunk) = next(chunks, PATIENCE).await? {
        if whole.len() + chunk.len() > most {
            return Err(too_large(limits.body_mb));
        }
        share.grow(whole.len() + chunk.len(), limits.bodies_bytes())?;
        whole.extend_from_slice(&chunk);
    }
    Ok(held(whole, share))
}

async fn read_gzip(chunks: &mut BodyDataStream, limits: &Limits) -> Result<Bytes, Failure> {
    let mut decoder = MultiGzDecoder::new(Bounded { whole: Vec::new(), most: limits.decompressed_bytes(), overflow: false });
    let (mut taken, mut share) = (0usize, Share::default());
    while let Some(chunk) = next(chunks, PATIENCE).await? {
        taken += chunk.len();
        if taken > limits.body_bytes() {
            return Err(too_large(limits.body_mb));
        }
        let most = limits.decompressed_bytes().min(RATIO_FREE.max(taken.saturating_mul(MOST_RATIO)));
        decoder.get_mut().most = most;
        // Small steps, so that neither memory nor the other requests feel a bomb before its limit stops it.
        for step in chunk.chunks(16 << 10) {
            if let Err(error) = decoder.write_all(step) {
                return Err(if decoder.get_ref().overflow { too_large_inside(limits, decoder.get_ref().most) } else { bad_gzip(&error) });
            }
            share.grow(decoder.get_ref().whole.len(), limits.bodies_bytes())?;
            tokio::task::yield_now().await;
        }
    }
    match decoder.try_finish() {
        Ok(()) => Ok(held(std::mem::take(&mut decoder.get_mut().whole), share)),
        Err(_) if decoder.get_ref().overflow => Err(too_large_inside(limits, decoder.get_ref().most)),
        Err(error) => Err(bad_gzip(&error)),
    }
}

/// The next part of the body; a client that sends no more is not waited for longer than `patience`.
async fn next(chunks: &mut BodyDataStream, patience: Duration) -> Result<Option<Bytes>, Failure> {
    match tokio::time::timeout(patience, chunks.next()).await {
        Ok(chunk) => chunk.transpose().map_err(|_| broken_off()),
        Err(_) => {
            let issue = Issue::error(IssueCode::Timeout, "The rest of the body did not come in time: send the request again.");
            Err(Failure::new(StatusCode::REQUEST_TIMEOUT, issue))
        }
    }
}

/// Collects what is written, up to a limit.
struct Bounded {
    whole: Vec<u8>,
    most: usize,
    overflow: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.whole.len() + bytes.len() > self.most {
            self.overflow = true;
            return Err(io::Error::other("too large"));
        }
        self.whole.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn too_large(most: u32) -> Failure {
    Failure::too_large(format!("The body is larger than {most} MiB: send it in parts, or compressed with gzip."))
}

/// `most`: the bound that was met, which a body that shrank suspiciously well meets early.
fn too_large_inside(limits: &Limits, most: usize) -> Failure {
    if most < limits.decompressed_bytes() {
        let words = format!(
            "The body decompresses to more than {MOST_RATIO} times its size, as records do not: send it uncompressed, or in parts."
        );
        return Failure::too_large(words);
    }
    Failure::too_large(format!("The body decompresses to more than is taken ({} MiB at most): send it in parts.", limits.decompressed_mb))
}

fn broken_off() -> Failure {
    Failure::bad_request("The connection broke off before the whole body was read.")
}

fn bad_gzip(_: &io::Error) -> Failure {
    Failure::bad_request("The body is not the gzip that Content-Encoding promises, or it is cut off.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    async fn read_bytes(bytes: Vec<u8>, encoding: Option<&'static str>) -> Result<Bytes, StatusCode> {
        let limits = Limits { body_mb: 1, decompressed_mb: 8, ..Limits::default() };
        let mut headers = HeaderMap::new();
        if let Some(encoding) = encoding {
            headers.insert(header::CONTENT_ENCODING, encoding.parse().unwrap());
        }
        read(&headers, Body::from(bytes), &limits).await.map_err(|failure| failure.status)
    }

    #[tokio::test]
    async fn gzip_is_decoded_whole() {
        let text: Vec<u8> = (0..200_000u32).flat_map(|n| n.to_string().into_bytes()).collect();
        assert_eq!(read_bytes(gzip(&text), Some("gzip")).await, Ok(text.clone().into()));
        let two: Vec<u8> = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(read_bytes(two, Some("gzip")).await, Ok("one two".into()));
    }

    #[tokio::test]
    async fn what_is_too_large_is_refused_before_it_is_held() {
        assert_eq!(read_bytes(vec![b'x'; (1 << 20) + 1], None).await, Err(StatusCode::PAYLOAD_TOO_LARGE));
        assert_eq!(read_bytes(gzip(&vec![0; 64 << 20]), Some("gzip")).await, Err(StatusCode::PAYLOAD_TOO_LARGE));
        let dense: Vec<u8> = (0..2_000_000u32).flat_map(|n| n.to_string().into_bytes()).collect();
        assert_eq!(read_bytes(gzip(&dense), Some("gzip")).await, Err(StatusCode::PAYLOAD_TOO_LARGE));
    }

    #[test]
    fn large_bodies_share_the_memory_and_small_ones_and_one_alone_are_always_taken() {
        const MIB: usize = 1 << 20;
        // Bodies of other tests may be held beside these; all are far below.
        let most = 1 << 40;
        let (mut first, mut second) = (Share::default(), Share::default());
        assert!(first.grow(2 * MIB, MIB).is_ok() || HELD.load(Ordering::Relaxed) > 2 * MIB, "alone it may be larger");
        first.grow(most - 64 * MIB, most).unwrap();
        let refused = second.grow(128 * MIB, most).unwrap_err();
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        drop(second);
        assert!(Share::default().grow(MIB, most).is_ok());
        drop(held(Vec::new(), first));
        assert!(Share::default().grow(128 * MIB, most).is_ok(), "what is not held any more is free");
    }

    #[tokio::test]
    async fn a_body_that_stops_is_not_waited_for() {
        let endless = Body::from_stream(futures_util::stream::pending::<Result<Bytes, io::Error>>());
        let failure = next(&mut endless.into_data_stream(), Duration::from_millis(10)).await.unwrap_err();
        assert_eq!(failure.status, StatusCode::REQUEST_TIMEOUT);
    }

    #[test]
    fn text_that_fills_memory_is_refused() {
        let many = |part: &str| part.repeat(MOST_VALUES + 1).into_bytes();
        assert!(check_values(&many("1,"), Format::Json).is_err());
        assert!(check_values(&many("<a/>"), Format::Xml).is_err());
        assert!(check_values(&many("<a/>"), Format::Json).is_ok());
    }

    #[tokio::test]
    async fn broken_gzip_is_a_bad_request() {
        let whole = gzip(&b"{\"resourceType\":\"Patient\"}".repeat(100));
        for cut in [1, 9, 12, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
            assert_eq!(read_bytes(whole[..cut].to_vec(), Some("gzip")).await, Err(StatusCode::BAD_REQUEST), "cut at {cut}");
        }
        assert_eq!(read_bytes(b"not gzip".to_vec(), Some("gzip")).await, Err(StatusCode::BAD_REQUEST));
        assert_eq!(read_bytes(b"x".to_vec(), Some("br")).await, Err(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
}
