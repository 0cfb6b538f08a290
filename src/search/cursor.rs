//! Page tokens: where a page ended, sealed.
//!
//! A token carries sort values, which may be names of people, and ends up in URLs and so in other people's logs. So it is
//! encrypted, and authenticated together with what it belongs to (filters, sort, scope): a token that was changed, made for
//! another search or given to another caller opens as nothing. The construction is a synthetic initialisation vector: a
//! keyed BLAKE3 of binding and content is both the tag and the nonce of the keystream, which is keyed BLAKE3 as well.

use crate::fhir::time::Micros;
use crate::store::Cursor;
use crate::store::query::{Snapshot, SortValue};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;

/// How long after its first page a walk may go on, in microseconds: rows of the past may be removed after a day.
pub const LIFETIME: Micros = 24 * 3_600 * 1_000_000;

const FORMAT: u8 = 1;
const TAG: usize = 16;
/// Longer than any token that lango makes.
const MAX_TOKEN: usize = 64 * 1024;

/// Seals and opens page tokens.
#[derive(Clone)]
pub struct CursorKey {
    tag: [u8; 32],
    stream: [u8; 32],
}

impl std::fmt::Debug for CursorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CursorKey")
    }
}

/// Why a page token was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// 400.
    #[error(
        "the page token does not belong to this search; follow the links of the answer unchanged, with the same caller; where a value \
         set or another definition that the search names was changed meanwhile, begin it again"
    )]
    Foreign,
    /// 410.
    #[error("the page token is more than a day old; begin the search again")]
    Expired,
}

impl CursorKey {
    /// From a secret that all processes on one database share.
    pub fn new(secret: &[u8; 32]) -> Self {
        CursorKey {
            tag: blake3::derive_key("lango 2026 page token tag", secret),
            stream: blake3::derive_key("lango 2026 page token stream", secret),
        }
    }

    /// The token of a page of the search `binding`, whose first page was read at `began`.
    pub fn seal(&self, cursor: &Cursor, began: Micros, binding: &str) -> String {
        self.seal_bytes(&write(cursor, began), binding)
    }

    /// The cursor in a token and when its first page was read.
    pub fn open(&self, token: &str, binding: &str, now: Micros) -> Result<(Cursor, Micros), CursorError> {
        let content = self.open_bytes(token, binding)?;
        let (cursor, began) = Reader(&content).cursor().ok_or(CursorError::Foreign)?;
        if now.saturating_sub(began) > LIFETIME {
            return Err(CursorError::Expired);
        }
        Ok((cursor, began))
    }

    /// Seals `content` for whoever has the same `binding`.
    pub fn seal_bytes(&self, content: &[u8], binding: &str) -> String {
        let mut content = content.to_vec();
        let tag = self.tag(&content, binding);
        self.apply_stream(&tag, &mut content);
        URL_SAFE_NO_PAD.encode([&tag[..], &content].concat())
    }

    /// What [`CursorKey::seal_bytes`] sealed.
    pub fn open_bytes(&self, token: &str, binding: &str) -> Result<Vec<u8>, CursorError> {
        if token.len() > MAX_TOKEN {
            return Err(CursorError::Foreign);
        }
        let sealed = URL_SAFE_NO_PAD.decode(token).map_err(|_| CursorError::Foreign)?;
        let (tag, content) = sealed.split_at_checked(TAG).ok_or(CursorError::Foreign)?;
        let mut content = content.to_vec();
        self.apply_stream(tag, &mut content);
        if bool::from(self.tag(&content, binding).ct_eq(tag)) { Ok(content) } else { Err(CursorError::Foreign) }
    }

    fn tag(&self, content: &[u8], binding: &str) -> [u8; TAG] {
        let mut hasher = blake3::Hasher::new_keyed(&self.tag);
        hasher.update(&(binding.len() as u64).to_be_bytes()).update(binding.as_bytes()).update(content);
        let mut tag = [0; TAG];
        hasher.finalize_xof().fill(&mut tag);
        tag
    }

    fn apply_stream(&self, tag: &[u8], content: &mut [u8]) {
        let mut stream = vec![0; content.len()];
        blake3::Hasher::new_keyed(&self.stream).update(tag).finalize_xof().fill(&mut stream);
        content.iter_mut().zip(stream).for_each(|(byte, key)| *byte ^= key);
    }
}

fn write(cursor: &Cursor, began: Micros) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    let int = |bytes: &mut Vec<u8>, value: i64| bytes.extend(value.to_be_bytes());
    int(&mut bytes, began);
    int(&mut bytes, cursor.after_key);
    int(&mut bytes, cursor.snapshot.below);
    int(&mut bytes, cursor.snapshot.except.len() as i64);
    cursor.snapshot.except.iter().for_each(|txn| int(&mut bytes, *txn));
    for value in &cursor.after {
        match value {
            SortValue::Missing => bytes.push(0),
            SortValue::Int(value) => {
                bytes.push(1);
                int(&mut bytes, *value);
            }
            SortValue::Real(value) => {
                bytes.push(2);
                bytes.extend(value.to_be_bytes());
            }
            SortValue::Text(text) => {
                bytes.push(3);
                int(&mut bytes, text.len() as i64);
                bytes.extend(text.as_bytes());
            }
        }
    }
    bytes
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn int(&mut self) -> Option<i64> {
        Some(i64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    fn cursor(mut self) -> Option<(Cursor, Micros)> {
        if self.take(1)? != [FORMAT] {
            return None;
        }
        let (began, after_key, below) = (self.int()?, self.int()?, self.int()?);
        let except = (0..self.int()?).map(|_| self.int()).collect::<Option<Vec<i64>>>()?;
        let mut after = Vec::new();
        while let Some(kind) = self.take(1).map(<[u8]>::to_vec) {
            after.push(match kind.as_slice() {
                [0] => SortValue::Missing,
                [1] => SortValue::Int(self.int()?),
                [2] => SortValue::Real(f64::from_be_bytes(self.take(8)?.try_into().ok()?)),
                [3] => {
                    let length = usize::try_from(self.int()?).ok()?;
                    SortValue::Text(String::from_utf8(self.take(length)?.to_vec()).ok()?)
                }
                _ => return None,
            });
        }
        Some((Cursor { snapshot: Snapshot { below, except }, after, after_key }, began))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> CursorKey {
        CursorKey::new(&[7; 32])
    }

    fn cursor(texts: Vec<String>) -> Cursor {
        let mut after: Vec<SortValue> = texts.into_iter().map(SortValue::Text).collect();
        after.extend([SortValue::Missing, SortValue::Int(-5), SortValue::Real(1.5)]);
        Cursor { snapshot: Snapshot { below: 912, except: vec![900, 905] }, after, after_key: 7001 }
    }

    #[test]
    fn a_token_opens_for_its_own_search_only_and_for_a_day() {
        let token = key().seal(&cursor(vec!["massawe".into()]), 1_000, "a");
        assert_eq!(key().open(&token, "a", 2_000), Ok((cursor(vec!["massawe".into()]), 1_000)));
        assert_eq!(key().open(&token, "b", 2_000), Err(CursorError::Foreign));
        assert_eq!(CursorKey::new(&[8; 32]).open(&token, "a", 2_000), Err(CursorError::Foreign));
        assert_eq!(key().open(&token, "a", 1_001 + LIFETIME), Err(CursorError::Expired));
    }

    #[test]
    fn a_token_shows_nothing_of_the_sort_values() {
        let token = key().seal(&cursor(vec!["massawe".into()]), 0, "a");
        let bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"massawe"));
    }

    proptest! {
        #[test]
        fn any_cursor_comes_back_and_any_change_is_noticed(texts in prop::collection::vec(".{0,12}", 0..3), at in 0usize..400, flip in 1u8..) {
            let token = key().seal(&cursor(texts.clone()), 0, "q");
            prop_assert_eq!(key().open(&token, "q", 0), Ok((cursor(texts), 0)));
            let mut bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            prop_assert_eq!(key().open(&URL_SAFE_NO_PAD.encode(bytes), "q", 0), Err(CursorError::Foreign));
        }

        #[test]
        fn arbitrary_text_is_foreign(text in ".{0,200}") {
            prop_assert_eq!(key().open(&text, "q", 0), Err(CursorError::Foreign));
        }
    }
}
