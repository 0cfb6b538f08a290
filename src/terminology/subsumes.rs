//! `CodeSystem/$subsumes` (<https://hl7.org/fhir/R4/codesystem-operation-subsumes.html>).

use super::lookup::named_system;
use super::parameters::Parts;
use super::{Arguments, Terminology, TerminologyError};
use serde_json::Value;

/// How concept A stands to concept B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subsumption {
    Equivalent,
    Subsumes,
    SubsumedBy,
    NotSubsumed,
}

impl Subsumption {
    pub fn as_str(self) -> &'static str {
        match self {
            Subsumption::Equivalent => "equivalent",
            Subsumption::Subsumes => "subsumes",
            Subsumption::SubsumedBy => "subsumed-by",
            Subsumption::NotSubsumed => "not-subsumed",
        }
    }

    pub fn to_parameters(self) -> Value {
        let mut out = Parts::default();
        out.add("outcome", "valueCode", self.as_str());
        out.resource()
    }
}

/// The inputs of `$subsumes`.
#[derive(Clone, Debug, Default)]
pub struct SubsumesRequest {
    /// The id of the code system, when asked of one instance.
    pub id: Option<String>,
    pub system: Option<String>,
    pub version: Option<String>,
    pub code_a: String,
    pub code_b: String,
}

impl SubsumesRequest {
    pub fn read(id: Option<&str>, arguments: &Arguments) -> Result<SubsumesRequest, TerminologyError> {
        let (a, b) = (arguments.coding("codingA")?, arguments.coding("codingB")?);
        let own = |name: &'static str| arguments.text(name);
        let systems = [own("system"), a.as_ref().and_then(|a| a.system.clone()), b.as_ref().and_then(|b| b.system.clone())];
        let mut systems: Vec<String> = systems.into_iter().flatten().collect();
        systems.dedup();
        if systems.len() > 1 {
            return Err(TerminologyError::Invalid { name: "codingB".into(), hint: "both codes must be of one code system" });
        }
        let missing =
            |name: &'static str| TerminologyError::Missing { name, hint: "give codeA and codeB with system, or codingA and codingB" };
        Ok(SubsumesRequest {
            id: id.map(str::to_owned),
            system: systems.pop(),
            version: own("version").or_else(|| a.as_ref()?.version.clone()),
            code_a: own("codeA").or(a.map(|a| a.code)).ok_or(missing("codeA"))?,
            code_b: own("codeB").or(b.map(|b| b.code)).ok_or(missing("codeB"))?,
        })
    }
}

impl Terminology {
    /// Whether one of two codes is above the other in the hierarchy.
    pub fn subsumes(&self, request: &SubsumesRequest) -> Result<Subsumption, TerminologyError> {
        let loaded = self.loaded.load();
        let system = match &request.id {
            Some(id) => {
                let found = loaded.systems.id(id).cloned();
                found.ok_or_else(|| TerminologyError::NotLoaded { type_name: "CodeSystem", what: format!("id {id}") })?
            }
            None => named_system(&loaded, request.system.as_deref(), request.version.as_deref())?,
        };
        let place = |code: &str| system.place(code).ok_or_else(|| system.unknown());
        let (a, b) = (place(&request.code_a)?, place(&request.code_b)?);
        Ok(if a == b {
            Subsumption::Equivalent
        } else if system.is_above(a, b) {
            Subsumption::Subsumes
        } else if system.is_above(b, a) {
            Subsumption::SubsumedBy
        } else {
            Subsumption::NotSubsumed
        })
    }
}
