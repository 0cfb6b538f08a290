//! One-time passwords by the clock (RFC 6238 with SHA-1, 6 digits, 30 seconds, as authenticator apps have them).

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use subtle::ConstantTimeEq;

const STEP_SECONDS: i64 = 30;
/// Steps that clocks may differ, either way.
const SKEW_STEPS: i64 = 1;
/// Bytes of a shared secret (RFC 4226 §4: at least 16, better 20).
pub(super) const SECRET_BYTES: usize = 20;

/// The time step whose code this is, later than `last_used`; each counts once (RFC 6238 §5.2).
pub(super) fn step_of(secret: &[u8], code: &str, now: i64, last_used: i64) -> Option<i64> {
    let current = now.div_euclid(STEP_SECONDS);
    let mut found = None;
    for step in current.saturating_sub(SKEW_STEPS)..=current.saturating_add(SKEW_STEPS) {
        let matches = bool::from(self::code(secret, step)?.as_bytes().ct_eq(code.as_bytes()));
        if matches && step > last_used {
            found = Some(step);
        }
    }
    found
}

/// RFC 4226 §5.3.
fn code(secret: &[u8], step: i64) -> Option<String> {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret).ok()?;
    mac.update(&step.to_be_bytes());
    let digest = mac.finalize().into_bytes();
    let offset = usize::from(digest.last()? & 0xf);
    let word: [u8; 4] = digest.get(offset..offset + 4)?.try_into().ok()?;
    Some(format!("{:06}", (u32::from_be_bytes(word) & 0x7fff_ffff) % 1_000_000))
}

/// RFC 4648 base 32 without padding, as authenticator apps take a secret.
pub(super) fn base32(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut text = String::new();
    let (mut buffer, mut bits) = (0u32, 0u32);
    for byte in bytes {
        buffer = (buffer << 8 | u32::from(*byte)) & 0xffff;
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            let place = (buffer >> bits & 31) as usize;
            text.extend(DIGITS.get(place).map(|digit| char::from(*digit)));
        }
    }
    if bits > 0 {
        let place = (buffer << (5 - bits) & 31) as usize;
        text.extend(DIGITS.get(place).map(|digit| char::from(*digit)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238, appendix B (SHA-1), the last six digits.
    #[test]
    fn the_rfcs_examples_come_out() {
        let secret = b"12345678901234567890";
        for (time, expected) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(code(secret, time / 30).unwrap(), expected);
            assert_eq!(step_of(secret, expected, time, 0), Some(time / 30));
        }
        assert_eq!(base32(secret), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        assert_eq!(base32(b"f"), "MY");
    }

    #[test]
    fn a_code_counts_once_and_not_long() {
        let secret = b"12345678901234567890";
        assert_eq!(step_of(secret, "287082", 59, 1), None, "used before");
        assert_eq!(step_of(secret, "287082", 59 + 30, 0), Some(1), "a clock half a minute late");
        assert_eq!(step_of(secret, "287082", 59 + 61, 0), None);
        assert_eq!(step_of(secret, "", 59, 0), None);
    }
}
