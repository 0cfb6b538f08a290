//! `$validate-code` on CodeSystem and ValueSet (<https://hl7.org/fhir/R4/codesystem-operation-validate-code.html>,
//! <https://hl7.org/fhir/R4/valueset-operation-validate-code.html>).

use super::code_system::{CodeSystem, Content, Designation, spoken};
use super::expand::named_set;
use super::lookup::named_system;
use super::parameters::Parts;
use super::value_set::ValueSet;
use super::versions::Versions;
use super::walk::Walk;
use super::{Arguments, Coding, Loaded, Terminology, TerminologyError};
use crate::fhir::text::fold;
use serde_json::Value;
use std::sync::Arc;

/// The inputs of both operations.
#[derive(Clone, Debug, Default)]
pub struct ValidateCodeRequest {
    pub id: Option<String>,
    /// Of the code system or the value set.
    pub url: Option<String>,
    /// Of the value set, or of the code system when that is asked.
    pub version: Option<String>,
    /// The code system or value set itself, in place of one that is loaded.
    pub resource: Option<Value>,
    /// A CodeableConcept is good when one of its codings is.
    pub codings: Vec<Coding>,
    /// `false` refuses codes that only group others.
    pub allow_abstract: Option<bool>,
    pub display_language: Option<String>,
    /// Canonicals of supplements that must be there.
    pub supplements: Vec<String>,
}

/// The outputs of both operations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValidateCodeAnswer {
    pub result: bool,
    pub message: Option<String>,
    pub display: Option<String>,
}

impl ValidateCodeRequest {
    /// For CodeSystem, where `url` names the system and each coding takes it when it has none of its own.
    pub fn read_for_code_system(id: Option<&str>, arguments: &Arguments) -> Result<ValidateCodeRequest, TerminologyError> {
        let mut request = ValidateCodeRequest::read(id, arguments, "url", "version")?;
        request.version = arguments.text("version");
        request.resource = arguments.resource("codeSystem").cloned();
        Ok(request)
    }

    /// For ValueSet.
    pub fn read_for_value_set(id: Option<&str>, arguments: &Arguments) -> Result<ValidateCodeRequest, TerminologyError> {
        let mut request = ValidateCodeRequest::read(id, arguments, "system", "systemVersion")?;
        request.version = arguments.text("valueSetVersion");
        request.resource = arguments.resource("valueSet").cloned();
        Ok(request)
    }

    fn read(id: Option<&str>, arguments: &Arguments, system: &str, version: &str) -> Result<ValidateCodeRequest, TerminologyError> {
        Ok(ValidateCodeRequest {
            id: id.map(str::to_owned),
            url: arguments.text("url"),
            version: None,
            resource: None,
            codings: arguments.codings(system, version)?,
            allow_abstract: arguments.boolean("abstract")?,
            display_language: arguments.text("displayLanguage"),
            supplements: arguments.all("useSupplement").map(str::to_owned).collect(),
        })
    }
}

impl ValidateCodeAnswer {
    pub fn to_parameters(&self) -> Value {
        let mut out = Parts::default();
        out.add("result", "valueBoolean", self.result).maybe("message", "valueString", self.message.as_deref()).maybe(
            "display",
            "valueString",
            self.display.as_deref(),
        );
        out.resource()
    }

    fn no(message: impl Into<String>) -> ValidateCodeAnswer {
        ValidateCodeAnswer { result: false, message: Some(message.into()), display: None }
    }
}

/// What is known of a code that was found.
struct Found {
    display: Option<Arc<str>>,
    /// Of the display, where it is told.
    language: Option<Arc<str>>,
    /// The display that the code system gives, where a value set has another.
    own: Option<Arc<str>>,
    designations: Vec<Designation>,
    is_abstract: bool,
    inactive: bool,
}

impl Found {
    /// The answer for a coding that is there: its display must be one that the code has, compared without case.
    fn answer(&self, coding: &Coding, request: &ValidateCodeRequest) -> ValidateCodeAnswer {
        let language = request.display_language.as_deref();
        let display =
            spoken(self.display.as_ref(), self.language.as_deref(), self.designations.iter(), language).map(|text| text.to_string());
        let same = |text: &str| coding.display.as_deref().is_some_and(|given| fold(given) == fold(text));
        let fits = coding.display.is_none()
            || display.is_none()
            || self.display.iter().chain(&self.own).any(|text| same(text))
            || self.designations.iter().any(|one| same(&one.value));
        if self.is_abstract && request.allow_abstract == Some(false) {
            return ValidateCodeAnswer { display, ..ValidateCodeAnswer::no("the code only groups others; choose one below it") };
        }
        if !fits {
            return ValidateCodeAnswer {
                display,
                ..ValidateCodeAnswer::no("the code is valid, but its display is another; use the display given here")
            };
        }
        let message = self.inactive.then(|| "the code is inactive; prefer an active one".to_owned());
        ValidateCodeAnswer { result: true, message, display }
    }
}

/// What is said of one coding.
enum Judged {
    /// The code is there, though perhaps with another display.
    There(ValidateCodeAnswer),
    Absent(ValidateCodeAnswer),
}

/// The first good answer, else the first of a code that is there, else the first that cannot be given, else the first: whatever the order.
fn best(answers: impl Iterator<Item = Result<Judged, TerminologyError>>) -> Result<ValidateCodeAnswer, TerminologyError> {
    let (mut there, mut trouble, mut absent) = (None, None, None);
    for answer in answers {
        match answer {
            Ok(Judged::There(answer)) if answer.result => return Ok(answer),
            Ok(Judged::There(answer)) => there = there.or(Some(Ok(answer))),
            Err(error) => trouble = trouble.or(Some(Err(error))),
            Ok(Judged::Absent(answer)) => absent = absent.or(Some(Ok(answer))),
        }
    }
    there
        .or(trouble)
        .or(absent)
        .unwrap_or(Err(TerminologyError::Missing { name: "code", hint: "give code with system, coding, or codeableConcept" }))
}

impl Terminology {
    /// Whether a code system has a code.
    pub fn validate_code_in_system(&self, request: &ValidateCodeRequest) -> Result<ValidateCodeAnswer, TerminologyError> {
        let loaded = self.loaded.load();
        loaded.require_supplements(request.supplements.iter().map(String::as_str))?;
        let named = match (&request.id, &request.resource) {
            (Some(id), _) => {
                let found = loaded.systems.id(id).cloned();
                Some(found.ok_or_else(|| TerminologyError::NotLoaded { type_name: "CodeSystem", what: format!("id {id}") })?)
            }
            (_, Some(resource)) => Some(Arc::new(super::shelf::inline(resource, CodeSystem::compile, "codeSystem")?)),
            _ => request.url.as_deref().map(|url| named_system(&loaded, Some(url), request.version.as_deref())).transpose()?,
        };
        best(request.codings.iter().map(|coding| {
            let system = match &named {
                Some(system) => system.clone(),
                None if coding.system.is_none() => {
                    let hint = "name the code system with url, or send it as codeSystem";
                    return Err(TerminologyError::Missing { name: "url", hint });
                }
                None => named_system(&loaded, coding.system.as_deref(), coding.version.as_deref())?,
            };
            if coding.system.as_deref().is_some_and(|own| named.is_some() && request.resource.is_none() && own != system.url()) {
                return Ok(Judged::Absent(ValidateCodeAnswer::no("the coding is of another code system")));
            }
            if system.content == Content::Absent {
                return Err(TerminologyError::NoContent { system: system.url().to_owned() });
            }
            Ok(match system.find(&coding.code) {
                Some(concept) => Judged::There(
                    Found {
                        display: concept.display.clone(),
                        language: system.header.language.clone(),
                        own: None,
                        designations: loaded.known(&system).designations(concept).cloned().collect(),
                        is_abstract: concept.is_abstract,
                        inactive: concept.inactive,
                    }
                    .answer(coding, request),
                ),
                None => Judged::Absent(ValidateCodeAnswer::no(system.unknown().to_string())),
            })
        }))
    }

    /// Whether a value set has a code.
    pub fn validate_code_in_set(&self, request: &ValidateCodeRequest) -> Result<ValidateCodeAnswer, TerminologyError> {
        let loaded = self.loaded.load();
        let set = named_set(&loaded, request.id.as_deref(), request.url.as_deref(), request.version.as_deref(), request.resource.as_ref())?;
        loaded.require_supplements(request.supplements.iter().map(String::as_str))?;
        best(request.codings.iter().map(|coding| {
            let system = match &coding.system {
                Some(system) => system.clone(),
                None => only_system(&set)?,
            };
            // What is not loaded, or without saying its version, cannot contradict the version that is stated.
            let versioned = loaded.systems.canonical(&system).is_some_and(|known| known.header.version.is_some());
            let stated = coding.version.as_deref().filter(|_| versioned);
            let versions = stated.map_or_else(Versions::default, |version| Versions::check(&system, version));
            let found = match Walk::with(&loaded, versions).contains(&set, &system, &coding.code) {
                Err(TerminologyError::OtherVersion { .. }) => {
                    let words = "the value set draws on another version of the code system than the one stated";
                    return Ok(Judged::Absent(ValidateCodeAnswer::no(words)));
                }
                Err(TerminologyError::NotLoaded { type_name: "CodeSystem", .. })
                    if stated.is_some_and(|version| loaded.systems.version(&system, Some(version)).is_none()) =>
                {
                    let words = format!("CodeSystem {system} is not loaded in the version stated");
                    return Ok(Judged::Absent(ValidateCodeAnswer::no(words)));
                }
                found => found?,
            };
            Ok(match found {
                Some(found) => Judged::There(
                    Found {
                        own: loaded
                            .systems
                            .version(&system, found.version.as_deref())
                            .and_then(|known| known.find(&found.code)?.display.clone()),
                        display: found.display,
                        language: found.language,
                        designations: found.designations,
                        is_abstract: found.is_abstract,
                        inactive: found.inactive,
                    }
                    .answer(coding, request),
                ),
                None => Judged::Absent(outside(&loaded, &system, stated, &coding.code)),
            })
        }))
    }
}

fn outside(loaded: &Loaded, system: &str, version: Option<&str>, code: &str) -> ValidateCodeAnswer {
    match loaded.systems.version(system, version) {
        Some(known) if known.find(code).is_none() => ValidateCodeAnswer::no(known.unknown().to_string()),
        known => ValidateCodeAnswer {
            display: known.and_then(|known| known.find(code)?.display.as_deref().map(str::to_owned)),
            ..ValidateCodeAnswer::no("the value set does not have the code")
        },
    }
}

/// The system of a value set that draws on one only.
fn only_system(set: &ValueSet) -> Result<String, TerminologyError> {
    let missing =
        TerminologyError::Missing { name: "system", hint: "the value set draws on several code systems, so say which the code is from" };
    let mut systems: Vec<Option<&Arc<str>>> = set.include.iter().map(|clause| clause.system.as_ref()).collect();
    systems.dedup();
    match systems.as_slice() {
        [Some(only)] => Ok(only.to_string()),
        _ => Err(missing),
    }
}
