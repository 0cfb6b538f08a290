//! Value sets that nobody wrote: `[code system]?fhir_vs`, all its codes, and `[code system]?fhir_vs=isa/[code]`, a code and all below it
//! (<https://hl7.org/fhir/R4/snomedct.html#implicit>; here they work for every code system that is loaded).

use super::Loaded;
use super::shelf::Header;
use super::value_set::{Clause, Filter, ValueSet};
use std::sync::Arc;

const SNOMED: &str = "http://snomed.info/sct";

impl Loaded {
    /// The value set with this canonical, stored or implicit.
    pub(super) fn set(&self, canonical: &str) -> Option<Arc<ValueSet>> {
        self.sets.canonical(canonical).cloned().or_else(|| implicit(canonical).map(Arc::new))
    }
}

/// `None` when the url is of another form.
fn implicit(url: &str) -> Option<ValueSet> {
    let (base, which) = url.split_once("?fhir_vs").filter(|(base, _)| !base.is_empty())?;
    // An edition or version of SNOMED CT stands in the url, and is the version of the one code system.
    let edition = base.strip_prefix(SNOMED).is_some_and(|rest| rest.starts_with('/'));
    let (system, version) = if edition { (SNOMED, Some(base)) } else { (base, None) };
    let filters = match which.strip_prefix("=isa/") {
        Some(code) if !code.is_empty() => vec![Filter::is_a(code)],
        _ if which.is_empty() => Vec::new(),
        _ => return None,
    };
    let clause = Clause::of_system(system, version, filters);
    let header = Header { key: url.into(), url: Some(url.into()), status: Some("active".into()), ..Header::default() };
    Some(ValueSet { header, is_composed: true, include: vec![clause], exclude: Vec::new(), inactive: None, supplements: Vec::new() })
}
