//! Bodies as the database holds them: large ones compressed.
//!
//! Most resources are of one or two kilobytes, where compressing saves little and costs a read more than it gives. MeasureReports of hundreds
//! of kilobytes, which are written again whenever numbers change, shrink to a fraction.

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use std::io::{Read, Write};

/// Bodies of more bytes are compressed.
const LARGE: usize = 16 << 10;
/// How a gzip stream begins. JSON of a resource begins with a brace.
const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// What to keep for `body`.
pub fn pack(body: Vec<u8>) -> Vec<u8> {
    if body.len() <= LARGE {
        return body;
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    // Writing to memory does not fail; whole is right too.
    match encoder.write_all(&body).and_then(|()| encoder.finish()) {
        Ok(packed) if packed.len() < body.len() => packed,
        _ => body,
    }
}

/// The body that was given to [`pack`].
pub fn unpack(kept: Vec<u8>) -> std::io::Result<Vec<u8>> {
    if !kept.starts_with(&MAGIC) {
        return Ok(kept);
    }
    let mut body = Vec::with_capacity(kept.len().saturating_mul(10));
    GzDecoder::new(&kept[..]).read_to_end(&mut body)?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_bodies_stay_as_they_are_and_large_ones_shrink_and_come_back() {
        let of_size = |size: usize| {
            let cells = (0..).map(|n| format!(r#"{{"code":"cell-{n}","count":{}}},"#, n % 17)).flat_map(String::into_bytes);
            b"{".iter().copied().chain(cells).take(size).collect::<Vec<u8>>()
        };
        for size in [2, 1_000, LARGE, LARGE + 1, 340_000] {
            let body = of_size(size);
            let kept = pack(body.clone());
            assert_eq!(kept == body, size <= LARGE, "{size}");
            // How much exactly is the compressor's own business.
            assert!(size < 300_000 || kept.len() < size / 4, "{size} became {}", kept.len());
            assert_eq!(unpack(kept).unwrap(), body);
        }
        let noise: Vec<u8> = b"{".iter().copied().chain((0..40_000).map(|_| rand::random())).collect();
        assert_eq!(unpack(pack(noise.clone())).unwrap(), noise);
    }

    #[test]
    fn what_is_broken_is_an_error() {
        let mut kept = pack(vec![b'{'; 100_000]);
        kept.truncate(kept.len() / 2);
        assert!(unpack(kept).is_err());
    }
}
