//! Strings (<http://hl7.org/fhirpath/N1/#string-manipulation>). Positions count characters.

use super::{Call, Function};
use crate::fhirpath::EvalError;
use crate::fhirpath::eval::List;
use crate::fhirpath::node::Node;
use crate::fhirpath::operators::MAX_TEXT;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, RwLock};

pub(super) fn call<'a>(call: &Call<'_, '_, 'a>, input: List<'a>) -> Result<List<'a>, EvalError> {
    use Function::*;
    if call.function == Join {
        return join(call, input);
    }
    let Some(node) = call.single(input)? else { return Ok(Vec::new()) };
    let text = match node {
        Node::String(text) => text,
        // A date or number is read as it is written, so that `substring(0, 4)` of a birth date is its year.
        Node::Temporal(_) | Node::Integer(_) | Node::Decimal(_) => super::convert::to_text(&node).unwrap_or_default().into(),
        _ => return call.error("needs a string"),
    };
    // Parts are counted before they are made.
    let share = if matches!(call.function, ToChars | Split) { 2 } else { 64 };
    call.evaluation.spend(text.len() / share)?;
    let string = |text: String| {
        call.evaluation.spend_text(&text)?;
        Ok(vec![Node::String(text.into())])
    };
    let boolean = |value: bool| Ok(vec![Node::Boolean(value)]);
    match call.function {
        Upper => return string(text.to_uppercase()),
        Lower => return string(text.to_lowercase()),
        Trim => return string(text.trim().to_owned()),
        Length => return Ok(vec![Node::Integer(text.chars().count() as i64)]),
        ToChars => return Ok(text.chars().map(|c| Node::String(c.to_string().into())).collect()),
        Substring => return substring(call, &text),
        _ => {}
    }
    let Some(other) = call.text_argument(0)? else { return Ok(Vec::new()) };
    match call.function {
        IndexOf => Ok(vec![Node::Integer(place(&text, text.find(&other)))]),
        LastIndexOf => Ok(vec![Node::Integer(place(&text, text.rfind(&other)))]),
        StartsWith => boolean(text.starts_with(&other)),
        EndsWith => boolean(text.ends_with(&other)),
        Contains => boolean(text.contains(&other)),
        Split => Ok(text.split(&other).map(|part| Node::String(part.to_owned().into())).collect()),
        Matches => boolean(regex(call, &other, false)?.is_match(&text)),
        MatchesFull => boolean(regex(call, &other, true)?.is_match(&text)),
        Replace | ReplaceMatches => {
            let Some(with) = call.text_argument(1)? else { return Ok(Vec::new()) };
            if text.len().saturating_add(1).saturating_mul(with.len()) > MAX_TEXT.saturating_mul(8) {
                return Err(EvalError::TooCostly);
            }
            match call.function {
                Replace => string(text.replace(&other, &with)),
                _ if other.is_empty() => string(text.into_owned()),
                _ => string(regex(call, &other, false)?.replace_all(&text, with.as_str()).into_owned()),
            }
        }
        Encode => match other.as_str() {
            "base64" => string(STANDARD.encode(text.as_bytes())),
            "urlbase64" => string(URL_SAFE.encode(text.as_bytes())),
            "hex" => string(text.bytes().map(|byte| format!("{byte:02x}")).collect()),
            _ => Ok(Vec::new()),
        },
        Decode => {
            let bytes = match other.as_str() {
                "base64" => STANDARD.decode(text.as_bytes()).ok(),
                "urlbase64" => URL_SAFE.decode(text.as_bytes()).ok(),
                "hex" => from_hex(&text),
                _ => None,
            };
            Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()).map(|text| Node::String(text.into())).into_iter().collect())
        }
        Escape => match other.as_str() {
            "html" => string(HTML.iter().fold(text.into_owned(), |text, (plain, escaped)| text.replace(plain, escaped))),
            "json" => {
                let quoted = serde_json::Value::from(text.as_ref()).to_string();
                string(quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_owned())
            }
            _ => Ok(Vec::new()),
        },
        Unescape => match other.as_str() {
            // The ampersand last, so that `&amp;lt;` becomes `&lt;`.
            "html" => string(HTML.iter().rev().fold(text.into_owned(), |text, (plain, escaped)| text.replace(escaped, plain))),
            "json" => match serde_json::from_str::<String>(&format!("\"{text}\"")) {
                Ok(plain) => string(plain),
                // Quotes that were never escaped stand as they are.
                Err(_) => string(text.replace("\\\"", "\"")),
            },
            _ => Ok(Vec::new()),
        },
        _ => call.error("is not for strings"),
    }
}

const HTML: [(&str, &str); 5] = [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\"", "&quot;"), ("'", "&#39;")];

/// A byte's place in characters; -1 for none.
fn place(text: &str, at: Option<usize>) -> i64 {
    at.and_then(|at| text.get(..at)).map_or(-1, |before| before.chars().count() as i64)
}

fn substring<'a>(call: &Call<'_, '_, 'a>, text: &str) -> Result<List<'a>, EvalError> {
    let Some(start) = call.integer_argument(0)? else { return Ok(Vec::new()) };
    let length = match call.integer_argument(1)? {
        Some(length) => usize::try_from(length).unwrap_or(0),
        None => usize::MAX,
    };
    let Ok(start) = usize::try_from(start) else { return Ok(Vec::new()) };
    if start >= text.chars().count() {
        return Ok(Vec::new());
    }
    let part: String = text.chars().skip(start).take(length).collect();
    Ok(vec![Node::String(part.into())])
}

fn join<'a>(call: &Call<'_, '_, 'a>, input: List<'a>) -> Result<List<'a>, EvalError> {
    let separator = call.text_argument(0)?.unwrap_or_default();
    if input.is_empty() {
        return Ok(Vec::new());
    }
    let mut joined = String::new();
    for (at, node) in input.iter().enumerate() {
        let Some(part) = super::convert::to_text(&node.to_system()) else { return call.error("needs strings") };
        if at > 0 {
            joined.push_str(&separator);
        }
        joined.push_str(&part);
        if joined.len() > MAX_TEXT {
            return Err(EvalError::TooCostly);
        }
    }
    call.evaluation.spend_text(&joined)?;
    Ok(vec![Node::String(joined.into())])
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

/// Bytes of one compiled pattern: R4's `eld-19` needs more than a quarter of them.
const MOST_COMPILED: usize = 1 << 20;

/// Patterns that are kept, at most; forgotten all at once.
const MOST_KEPT: usize = 64;

/// What compiling a pattern counts for among the work of an evaluation.
const COMPILING: usize = 20_000;

/// Compiled patterns, few and kept: the same invariants run on every resource. `None`: it cannot be compiled, which takes as long to find out.
static PATTERNS: LazyLock<RwLock<HashMap<String, Option<Arc<regex::Regex>>>>> = LazyLock::new(RwLock::default);

fn regex(call: &Call, pattern: &str, whole: bool) -> Result<Arc<regex::Regex>, EvalError> {
    // FHIRPath's dot matches line ends.
    let pattern = if whole { format!("(?s)\\A(?:{pattern})\\z") } else { format!("(?s){pattern}") };
    let known = PATTERNS.read().ok().and_then(|known| known.get(&pattern).cloned());
    let compiled = match known {
        Some(known) => known,
        None => {
            call.evaluation.spend(COMPILING)?;
            let compiled = regex::RegexBuilder::new(&pattern).size_limit(MOST_COMPILED).build().ok().map(Arc::new);
            if let Ok(mut known) = PATTERNS.write() {
                if known.len() >= MOST_KEPT {
                    known.clear();
                }
                known.insert(pattern, compiled.clone());
            }
            compiled
        }
    };
    match compiled {
        Some(compiled) => Ok(compiled),
        None => call.error("takes a regular expression without look-around, of moderate size"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Env, Expression};
    use super::*;

    #[test]
    fn a_pattern_that_cannot_be_compiled_is_remembered() {
        let patient = serde_json::json!({ "resourceType": "Patient", "id": "x" });
        assert!(Expression::parse("id.matches('(?=remembered)')").unwrap().evaluate(&patient, &Env::default()).is_err());
        assert!(PATTERNS.read().unwrap().get("(?s)(?=remembered)").is_some_and(Option::is_none));
    }
}
