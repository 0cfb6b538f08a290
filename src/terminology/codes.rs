//! Codes for searches: those of a value set, and those above or below another.

use super::code_system::{CodeSystem, Content};
use super::expand::named_set;
use super::walk::Walk;
use super::{Terminology, TerminologyError};
use crate::fhir::text::small;
use std::collections::HashSet;
use std::sync::Arc;

/// Codes by their systems.
pub type CodesBySystem = Vec<(Arc<str>, Vec<String>)>;

/// The codes of a value set, or around a code.
#[derive(Clone, Debug, Default)]
pub struct SetCodes {
    pub lists: CodesBySystem,
    /// The code systems of which only a part is loaded, so that there may be more codes of them.
    pub partial: Vec<Arc<str>>,
}

impl Terminology {
    /// The codes of a value set by system, inactive ones among them unless the set leaves them out. `set` is its URL, with or
    /// without `|version`, or `ValueSet/id`. More than `limit` are refused.
    pub fn codes_of_set(&self, set: &str, limit: usize) -> Result<SetCodes, TerminologyError> {
        let loaded = self.loaded.load();
        let (id, url) = match set.strip_prefix("ValueSet/") {
            Some(id) => (Some(id), None),
            None => (None, Some(set)),
        };
        let set = named_set(&loaded, id, url, None, None)?;
        let mut lists: CodesBySystem = Vec::new();
        let mut count = 0usize;
        let walk = Walk::new(&loaded);
        walk.each(&set, 0, &mut |member| {
            count += 1;
            if count > limit {
                return Err(TerminologyError::TooManyCodes { limit });
            }
            match lists.iter_mut().find(|(system, _)| *system == member.system) {
                Some((_, codes)) => codes.push(member.code.to_string()),
                None => lists.push((member.system, vec![member.code.to_string()])),
            }
            Ok(())
        })?;
        Ok(SetCodes { lists, partial: walk.partial() })
    }

    /// A code and everything below it, or above it, in its system. More than `limit` are refused.
    pub fn codes_by_hierarchy(&self, system: &str, code: &str, below: bool, limit: usize) -> Result<SetCodes, TerminologyError> {
        let loaded = self.loaded.load();
        let what = || format!("url {system}");
        let known =
            loaded.systems.canonical(system).ok_or_else(|| TerminologyError::NotLoaded { type_name: "CodeSystem", what: what() })?;
        let place = known.place(code).ok_or_else(|| known.unknown())?;
        let mut seen = HashSet::from([place]);
        let mut waiting = vec![place];
        let mut codes = Vec::new();
        while let Some(concept) = waiting.pop().and_then(|place| known.at(place)) {
            if codes.len() >= limit {
                return Err(TerminologyError::TooManyCodes { limit });
            }
            codes.push(concept.code.to_string());
            let next = if below { &concept.children } else { &concept.parents };
            waiting.extend(next.iter().copied().filter(|place| seen.insert(*place)));
        }
        let system: Arc<str> = system.into();
        let partial = if known.content == Content::Partial { vec![system.clone()] } else { Vec::new() };
        Ok(SetCodes { lists: vec![(system, codes)], partial })
    }

    /// How a code of a system that does not tell case apart may be spelt: as asked for, as the system has it, in small letters and in
    /// capitals, each once. `None` of another system, and of one that is not loaded.
    pub fn spellings(&self, system: &str, code: &str) -> Option<Vec<String>> {
        let loaded = self.loaded.load();
        loaded.systems.canonical(system).filter(|known| known.ignores_case()).map(|known| spellings(known, code))
    }

    /// The same in every such system that has the code, in the order of their urls.
    pub fn spellings_anywhere(&self, code: &str) -> CodesBySystem {
        let loaded = self.loaded.load();
        let having = loaded.systems.preferred().filter(|known| known.ignores_case() && known.find(code).is_some());
        in_order(having.map(|known| (known.url().into(), spellings(known, code))))
    }

    /// The codes that begin so in the systems that do not tell case apart, in the order of their urls. More than `limit` are refused.
    pub fn codes_beginning(&self, start: &str, limit: usize) -> Result<CodesBySystem, TerminologyError> {
        let (loaded, start) = (self.loaded.load(), small(start));
        let begin = |known: &CodeSystem| -> Vec<String> {
            let codes = known.concepts.iter().map(|concept| &concept.code);
            codes.filter(|code| small(code).starts_with(&start)).map(|code| code.to_string()).collect()
        };
        let systems = loaded.systems.preferred().filter(|known| known.ignores_case());
        let lists = in_order(systems.map(|known| (known.url().into(), begin(known))).filter(|(_, codes)| !codes.is_empty()));
        match lists.iter().map(|(_, codes)| codes.len()).sum::<usize>() > limit {
            true => Err(TerminologyError::TooManyCodes { limit }),
            false => Ok(lists),
        }
    }

    /// The loaded systems that have a code, in the order of their keys.
    pub fn systems_with(&self, code: &str) -> Vec<String> {
        let loaded = self.loaded.load();
        loaded.systems.all().into_iter().filter(|system| system.find(code).is_some()).map(|system| system.url().to_owned()).collect()
    }
}

fn spellings(known: &CodeSystem, code: &str) -> Vec<String> {
    let own = known.find(code).map(|concept| concept.code.to_string());
    let mut spellings = vec![code.to_owned()];
    for spelling in own.into_iter().chain([code.to_lowercase(), code.to_uppercase()]) {
        // Capitals may be more than another case: STRASSE is not how straße is written.
        if small(&spelling) == small(code) && !spellings.contains(&spelling) {
            spellings.push(spelling);
        }
    }
    spellings
}

fn in_order(lists: impl Iterator<Item = (Arc<str>, Vec<String>)>) -> CodesBySystem {
    let mut lists: CodesBySystem = lists.collect();
    lists.sort_by(|(a, _), (b, _)| a.cmp(b));
    lists
}
