//! What was signed about a request: for what purpose, by whom, in whose name.
//!
//! A client puts it into `extensions` of its assertion, as UDAP's `hl7-b2b` or IHE IUA's `ihe_iua` object; lango carries it on in
//! its own access tokens, and reads it alike from those of a configured outside issuer. It never widens what is registered: a
//! claimed role or organisation can only be one of those that the client has anyway.

use serde_json::{Map, Value, json};

/// Bytes of one claimed text.
const LONGEST: usize = 256;
/// Bytes of a claimed reason.
const LONGEST_REASON: usize = 1024;
/// Purposes of one claim.
const MOST_PURPOSES: usize = 16;

/// A code and, if it was said, its system.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Code {
    pub system: Option<String>,
    pub code: String,
}

/// What was signed about a request; everything may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    /// `purpose_of_use`, in the order given. Several give no more than the strongest single one would: whoever decides must look at each alone.
    pub purposes: Vec<Code>,
    /// `subject_id`: an identifier value of the acting Practitioner.
    pub practitioner: Option<String>,
    /// `subject_role`.
    pub role: Option<Code>,
    /// `organization_id`: the code of the facility in whose name the caller acts.
    pub organization: Option<String>,
    /// `purpose_of_use_reason`, in the caller's words. Not for logs.
    pub reason: Option<String>,
}

/// What is wrong with the extension; for the client's developer.
pub type ClaimError = &'static str;

impl Claimed {
    /// Reads the claim `extensions` of a token whose signature holds. Without one, nothing is claimed.
    pub(super) fn of(claims: &Map<String, Value>) -> Result<Claimed, ClaimError> {
        let extensions = match claims.get("extensions") {
            None => return Ok(Claimed::default()),
            Some(Value::Object(extensions)) => extensions,
            Some(_) => return Err("extensions must be an object with hl7-b2b or ihe_iua"),
        };
        let read = |name: &str| match extensions.get(name) {
            None => Ok(None),
            Some(Value::Object(extension)) => Claimed::of_extension(extension).map(Some),
            Some(_) => Err("extensions.hl7-b2b and extensions.ihe_iua are objects"),
        };
        match (read("hl7-b2b")?, read("ihe_iua")?) {
            (Some(one), Some(other)) if one != other => Err("extensions.hl7-b2b and extensions.ihe_iua disagree: send one of them"),
            (Some(claimed), _) | (None, Some(claimed)) => Ok(claimed),
            (None, None) => Ok(Claimed::default()),
        }
    }

    fn of_extension(extension: &Map<String, Value>) -> Result<Claimed, ClaimError> {
        let text = |name: &str, longest: usize| match extension.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if is_plain(text, longest) => Ok(Some(text.clone())),
            Some(_) => Err("a member of the extension is no text, empty, too long or has control characters"),
        };
        let organization = match (text("organization_id", LONGEST)?, text("subject_organization_id", LONGEST)?) {
            (Some(one), Some(other)) if one != other => return Err("organization_id and subject_organization_id disagree"),
            (one, other) => one.or(other),
        };
        let mut roles = codes(extension.get("subject_role"))?;
        if roles.len() > 1 {
            return Err("subject_role must be one role: ask for a token for each");
        }
        let purposes = codes(extension.get("purpose_of_use"))?;
        let (practitioner, reason) = (text("subject_id", LONGEST)?, text("purpose_of_use_reason", LONGEST_REASON)?);
        Ok(Claimed { purposes, practitioner, role: roles.pop(), organization: organization.map(|id| last_part(&id)), reason })
    }

    /// The claim `extensions` of lango's own access tokens, from which [`Claimed::of`] reads the same again; `None` when nothing is claimed.
    pub fn to_extensions(&self) -> Option<Value> {
        if *self == Claimed::default() {
            return None;
        }
        let code = |code: &Code| match &code.system {
            Some(system) => json!({ "system": system, "code": code.code }),
            None => json!(code.code),
        };
        let mut extension = Map::new();
        if !self.purposes.is_empty() {
            extension.insert("purpose_of_use".into(), self.purposes.iter().map(code).collect());
        }
        if let Some(role) = &self.role {
            extension.insert("subject_role".into(), code(role));
        }
        let texts = [("subject_id", &self.practitioner), ("organization_id", &self.organization), ("purpose_of_use_reason", &self.reason)];
        for (name, value) in texts {
            if let Some(value) = value {
                extension.insert(name.into(), json!(value));
            }
        }
        Some(json!({ "hl7-b2b": extension }))
    }
}

/// UDAP writes an organisation as a URI; the facility's code is what remains without `urn:lango:facility:` or the like.
fn last_part(id: &str) -> String {
    id.strip_prefix("urn:lango:facility:").or_else(|| id.strip_prefix("urn:lango:facility|")).unwrap_or(id).to_owned()
}

/// One code or several, each a text or an object with `code` and perhaps `system`.
fn codes(value: Option<&Value>) -> Result<Vec<Code>, ClaimError> {
    const WRONG: ClaimError = "purpose_of_use and subject_role are codes, or objects with system and code";
    let several = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(several)) if several.len() <= MOST_PURPOSES => several.as_slice(),
        Some(Value::Array(_)) => return Err("there are too many purposes of use"),
        Some(one) => std::slice::from_ref(one),
    };
    let mut codes = Vec::with_capacity(several.len());
    for one in several {
        let (system, code) = match one {
            // `system|code` and, as UDAP has it, `system#code`.
            Value::String(text) => match text.split_once('|').or_else(|| text.rsplit_once('#')) {
                Some((system, code)) => (Some(system).filter(|system| !system.is_empty()), code),
                None => (None, text.as_str()),
            },
            Value::Object(coding) => {
                let system = match coding.get("system") {
                    None | Some(Value::Null) => None,
                    Some(system) => Some(system.as_str().ok_or(WRONG)?),
                };
                (system, coding.get("code").and_then(Value::as_str).ok_or(WRONG)?)
            }
            _ => return Err(WRONG),
        };
        if !is_plain(code, LONGEST) || code.contains(char::is_whitespace) || system.is_some_and(|system| !is_plain(system, LONGEST)) {
            return Err(WRONG);
        }
        let code = Code { system: system.map(str::to_owned), code: code.to_owned() };
        if !codes.contains(&code) {
            codes.push(code);
        }
    }
    Ok(codes)
}

fn is_plain(text: &str, longest: usize) -> bool {
    !text.trim().is_empty() && text.len() <= longest && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(extensions: Value) -> Result<Claimed, ClaimError> {
        let claims = json!({ "extensions": extensions });
        Claimed::of(claims.as_object().unwrap())
    }

    #[test]
    fn both_extensions_say_the_same() {
        let full = json!({
            "purpose_of_use": ["TREAT", { "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "ETREAT" }],
            "subject_id": "MCT-1", "subject_role": "clinician", "organization_id": "HF-1", "purpose_of_use_reason": "unconscious",
        });
        let claimed = of(json!({ "hl7-b2b": full })).unwrap();
        assert_eq!(claimed, of(json!({ "ihe_iua": full })).unwrap());
        assert_eq!(claimed, of(json!({ "ihe_iua": full, "hl7-b2b": full })).unwrap());
        assert_eq!(claimed.purposes.len(), 2);
        assert_eq!(claimed.purposes[1].system.as_deref(), Some("http://terminology.hl7.org/CodeSystem/v3-ActReason"));
        assert_eq!((claimed.practitioner.as_deref(), claimed.organization.as_deref()), (Some("MCT-1"), Some("HF-1")));
        assert_eq!(claimed, of(claimed.to_extensions().unwrap()).unwrap(), "lango's own tokens carry it unchanged");
    }

    #[test]
    fn a_code_may_come_with_its_system_in_one_text() {
        let claimed =
            of(json!({ "hl7-b2b": { "purpose_of_use": ["urn:oid:2.16.840.1.113883.5.8#TREAT", "http://x|BTG", "TREAT"] } })).unwrap();
        let codes: Vec<_> = claimed.purposes.iter().map(|purpose| (purpose.system.as_deref(), purpose.code.as_str())).collect();
        assert_eq!(codes, [(Some("urn:oid:2.16.840.1.113883.5.8"), "TREAT"), (Some("http://x"), "BTG"), (None, "TREAT")]);
    }

    #[test]
    fn what_is_unclear_is_refused_and_never_read_as_nothing() {
        for wrong in [
            json!("hl7-b2b"),
            json!({ "hl7-b2b": [] }),
            json!({ "hl7-b2b": { "purpose_of_use": 1 } }),
            json!({ "hl7-b2b": { "purpose_of_use": [""] } }),
            json!({ "hl7-b2b": { "purpose_of_use": ["TREAT BTG"] } }),
            json!({ "hl7-b2b": { "purpose_of_use": [{ "system": "x" }] } }),
            json!({ "hl7-b2b": { "purpose_of_use": vec!["TREAT"; 17] } }),
            json!({ "hl7-b2b": { "subject_role": ["clinician", "operator"] } }),
            json!({ "hl7-b2b": { "subject_id": ["a"] } }),
            json!({ "hl7-b2b": { "organization_id": "a", "subject_organization_id": "b" } }),
            json!({ "hl7-b2b": { "purpose_of_use_reason": "x".repeat(1025) } }),
            json!({ "hl7-b2b": { "purpose_of_use": "TREAT" }, "ihe_iua": { "purpose_of_use": "BTG" } }),
        ] {
            assert!(of(wrong.clone()).is_err(), "{wrong}");
        }
        assert_eq!(of(json!({})), Ok(Claimed::default()));
    }
}
