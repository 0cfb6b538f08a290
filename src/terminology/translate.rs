//! `ConceptMap/$translate` (<https://hl7.org/fhir/R4/conceptmap-operation-translate.html>).

use super::code_system::{CodeSystem, Content};
use super::concept_map::{ConceptMap, Element, Equivalence, Group, Product, Target, Unmapped};
use super::parameters::{Parts, coding};
use super::shelf::Shelved;
use super::{Arguments, Coding, Loaded, Terminology, TerminologyError};
use serde_json::Value;
use std::sync::Arc;

/// ICD-10 as FHIR names it.
pub const ICD10: &str = "http://hl7.org/fhir/sid/icd-10";

/// Maps that may be asked one after the other through `unmapped.url`.
const MAX_CHAIN: usize = 8;

/// One way that a code is translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translation {
    /// `None` when the map does not say the system of its targets.
    pub system: Option<Arc<str>>,
    pub version: Option<Box<str>>,
    /// `None` when the map says that there is no such concept.
    pub code: Option<Arc<str>>,
    pub display: Option<Arc<str>>,
    pub equivalence: Equivalence,
    /// Canonical of the map that said so.
    pub source: Option<Arc<str>>,
    pub product: Vec<Product>,
}

/// The inputs of `$translate`.
#[derive(Clone, Debug, Default)]
pub struct TranslateRequest {
    /// The id of the map, when asked of one instance.
    pub id: Option<String>,
    pub url: Option<String>,
    pub map_version: Option<String>,
    /// The map itself, in place of one that is loaded.
    pub map: Option<Value>,
    pub codings: Vec<Coding>,
    /// Value set or code system that the map is from, and to.
    pub source: Option<String>,
    pub target: Option<String>,
    pub target_system: Option<String>,
    pub reverse: bool,
    /// Properties and the values that they have. When some are given, targets that depend on others are left out.
    pub dependencies: Vec<(String, Vec<Coding>)>,
}

/// The outputs of `$translate`.
#[derive(Clone, Debug, Default)]
pub struct TranslateAnswer {
    /// Whether a match is there that is neither unmatched nor disjoint.
    pub result: bool,
    pub message: Option<String>,
    pub matches: Vec<Translation>,
}

impl TranslateRequest {
    pub fn read(id: Option<&str>, arguments: &Arguments) -> Result<TranslateRequest, TerminologyError> {
        let codings = arguments.codings("system", "version")?;
        if codings.iter().all(|coding| coding.system.is_none()) {
            return Err(TerminologyError::Missing { name: "system", hint: "say which code system the code is from" });
        }
        Ok(TranslateRequest {
            id: id.map(str::to_owned),
            url: arguments.text("url"),
            map_version: arguments.text("conceptMapVersion"),
            map: arguments.resource("conceptMap").cloned(),
            codings,
            source: arguments.text("source"),
            target: arguments.text("target"),
            target_system: arguments.text("targetsystem"),
            reverse: arguments.boolean("reverse")?.unwrap_or(false),
            dependencies: arguments.dependencies()?,
        })
    }
}

impl TranslateAnswer {
    pub fn to_parameters(&self) -> Value {
        let mut out = Parts::default();
        out.add("result", "valueBoolean", self.result).maybe("message", "valueString", self.message.clone());
        for found in &self.matches {
            let mut parts = Parts::default();
            parts.add("equivalence", "valueCode", found.equivalence.as_str());
            if let Some(code) = &found.code {
                let value = coding(found.system.as_deref(), found.version.as_deref(), code, found.display.as_deref());
                parts.add("concept", "valueCoding", value);
            }
            for Product { property, system, value } in &found.product {
                let mut product = Parts::default();
                product.add("element", "valueUri", &**property).add("concept", "valueCoding", coding(system.as_deref(), None, value, None));
                parts.group("product", product);
            }
            parts.maybe("source", "valueUri", found.source.as_deref());
            out.group("match", parts);
        }
        out.resource()
    }
}

impl Terminology {
    /// Translates through the map named by id, url or content, else through every map that fits source, target and the coding's system.
    pub fn translate(&self, request: &TranslateRequest) -> Result<TranslateAnswer, TerminologyError> {
        let loaded = self.loaded.load();
        let not_loaded = |what: String| TerminologyError::NotLoaded { type_name: "ConceptMap", what };
        let mut maps: Vec<Arc<ConceptMap>> = match (&request.id, &request.map, &request.url) {
            (Some(id), ..) => vec![loaded.maps.id(id).ok_or_else(|| not_loaded(format!("id {id}")))?.clone()],
            (_, Some(map), _) => vec![Arc::new(super::shelf::inline(map, ConceptMap::compile, "conceptMap")?)],
            (_, _, Some(url)) => {
                let found = match &request.map_version {
                    Some(version) => loaded.maps.version(url, Some(version)),
                    None => loaded.maps.canonical(url),
                };
                vec![found.ok_or_else(|| not_loaded(super::shelf::named(url, request.map_version.as_deref())))?.clone()]
            }
            _ => {
                let fits = |map: &&Arc<ConceptMap>| {
                    between(map, request.source.as_deref(), map.source.as_deref(), |group| group.source.as_deref())
                        && between(map, request.target.as_deref(), map.target.as_deref(), |group| group.target.as_deref())
                };
                loaded.maps.all().into_iter().filter(fits).cloned().collect()
            }
        };
        // A map that is named may say of neither end what it is; what it says must be what is asked for.
        if !request.reverse {
            maps.retain(|map| !elsewhere(request.source.as_deref(), map.source.as_deref(), map, |group| group.source.as_deref()));
            maps.retain(|map| !elsewhere(request.target.as_deref(), map.target.as_deref(), map, |group| group.target.as_deref()));
        }
        let mut matches: Vec<Translation> = Vec::new();
        for wanted in request.codings.iter().filter(|wanted| wanted.system.is_some()) {
            for map in &maps {
                // A target that is a code system narrows a map to the groups that lead there; a value set has chosen the map already.
                let leads_to = |asked: &&str| map.groups.iter().any(|group| group.target.as_deref() == Some(asked));
                let target = request.target_system.as_deref().or(request.target.as_deref().filter(leads_to));
                let found = if request.reverse {
                    backwards(map, wanted, request)
                } else {
                    through(
                        &loaded,
                        map,
                        &Wanted { system: wanted.system.as_deref(), code: &wanted.code, target, given: &request.dependencies },
                    )
                };
                for one in found {
                    if !matches.contains(&one) {
                        matches.push(one);
                    }
                }
            }
        }
        let result = matches.iter().any(|found| found.equivalence.is_match());
        let message = match (result, matches.is_empty(), maps.is_empty()) {
            (true, ..) => other_version(&maps, &request.codings),
            (_, _, true) => {
                Some("no loaded ConceptMap is between these; name one with url without source and target, or load one".to_owned())
            }
            (_, true, _) => Some("the code is not mapped; add an element for it to the ConceptMap".to_owned()),
            _ => Some("the ConceptMap says that nothing in the target matches the code".to_owned()),
        };
        Ok(TranslateAnswer { result, message, matches })
    }
}

/// What is to be said where a map that has a code is for another version of its system than the one given: it answers all the same.
fn other_version(maps: &[Arc<ConceptMap>], codings: &[Coding]) -> Option<String> {
    let stated = codings.iter().find_map(|coding| {
        let version = coding.version.as_deref()?;
        let of_system =
            |group: &&Group| group.source.as_deref() == coding.system.as_deref() && group.element(&coding.code, false).is_some();
        let mut stated = maps.iter().flat_map(|map| &map.groups).filter(of_system).filter_map(|group| group.source_version.as_deref());
        stated.find(|stated| *stated != version)
    });
    stated.map(|stated| format!("the ConceptMap is for version {stated} of the code system, not for the one given"))
}

/// Whether a map is from (or to) what was asked for, by its value set or by a group's system.
fn between<'a>(map: &'a ConceptMap, asked: Option<&str>, own: Option<&str>, system: impl Fn(&'a Group) -> Option<&'a str>) -> bool {
    let Some(asked) = asked else { return true };
    let base = |canonical: &str| canonical.split('|').next() == asked.split('|').next();
    own.is_some_and(base) || map.groups.iter().any(|group| system(group).is_some_and(base))
}

/// Whether a map says that it is from (or to) another value set than what was asked for, which is no system of its groups either.
fn elsewhere<'a>(asked: Option<&str>, own: Option<&str>, map: &'a ConceptMap, system: impl Fn(&'a Group) -> Option<&'a str>) -> bool {
    own.is_some() && !between(map, asked, own, system)
}

/// What is to be translated.
pub(super) struct Wanted<'a> {
    /// `None`: of any source system.
    pub system: Option<&'a str>,
    pub code: &'a str,
    /// The system to lead to; `None`: any.
    pub target: Option<&'a str>,
    /// What targets may depend on; empty: it is not asked.
    pub given: &'a [(String, Vec<Coding>)],
}

/// Every translation of a code through one map and the maps that it hands unmapped codes to.
pub(super) fn through(loaded: &Loaded, map: &Arc<ConceptMap>, wanted: &Wanted<'_>) -> Vec<Translation> {
    let Wanted { system, code, target, given } = *wanted;
    let mut found = Vec::new();
    let mut waiting = vec![map.clone()];
    let mut asked: Vec<Box<str>> = Vec::new();
    while let Some(map) = waiting.pop() {
        if asked.contains(&map.header.key) || asked.len() >= MAX_CHAIN {
            continue;
        }
        asked.push(map.header.key.clone());
        for group in &map.groups {
            let fits = |own: &Option<Arc<str>>, wanted: Option<&str>| own.is_none() || wanted.is_none() || own.as_deref() == wanted;
            if !fits(&group.source, system) || !fits(&group.target, target) {
                continue;
            }
            let source = system.or(group.source.as_deref());
            let ignore_case = source.and_then(|system| loaded.systems.canonical(system)).is_some_and(|system| system.ignores_case());
            if let Some((element, exact)) = find(group, code, ignore_case, source == Some(ICD10)) {
                let holding = element.targets.iter().filter(|target| target.holds_for(given));
                found.extend(holding.map(|target| translation(&map, group, target, exact)));
                continue;
            }
            match &group.unmapped {
                // A facility's own word is no ICD-10 code, however the map hands codes on.
                Some(Unmapped::Provided) if group.target.as_deref() == Some(ICD10) => {
                    let system = loaded.systems.canonical(ICD10);
                    found.extend(as_icd10(code, system.map(|system| &**system)).map(|code| Translation {
                        display: system.and_then(|system| system.find(&code)?.display.clone()),
                        code: Some(code.into()),
                        ..of(&map, group, Equivalence::Equal)
                    }));
                }
                Some(Unmapped::Provided) => found.push(Translation {
                    code: Some(code.into()),
                    display: group.target.as_deref().and_then(|target| loaded.systems.canonical(target)?.find(code)?.display.clone()),
                    ..of(&map, group, Equivalence::Equal)
                }),
                Some(Unmapped::Fixed { code, display }) => found.push(Translation {
                    code: Some(code.clone()),
                    display: display.clone(),
                    ..of(&map, group, Equivalence::RelatedTo)
                }),
                Some(Unmapped::OtherMap(url)) => waiting.extend(loaded.maps.canonical(url).cloned()),
                None => {}
            }
        }
    }
    found
}

/// The element for a code, and whether it is for that very code. An ICD-10 code without an element of its own takes that of the code cut
/// shorter, down to the category's three characters: lango's rule, told in `conceptmaps/README.md`.
fn find<'a>(group: &'a Group, code: &str, ignore_case: bool, icd10: bool) -> Option<(&'a Element, bool)> {
    if let Some(element) = group.element(code, ignore_case) {
        return Some((element, true));
    }
    if !icd10 || !code.is_ascii() {
        return None;
    }
    (3..code.len().min(16)).rev().find_map(|length| {
        let shorter = code.get(..length)?.trim_end_matches('.');
        group.element(shorter, ignore_case).map(|element| (element, false))
    })
}

/// The code as ICD-10 writes it: `B54` of `b54`, `B50.9` of `B509`. `None` for what is no code of it: where the whole of ICD-10 is
/// loaded, what is not in it; where only a part is, what has not the form of a code.
fn as_icd10(code: &str, system: Option<&CodeSystem>) -> Option<String> {
    let code = code.trim().to_ascii_uppercase();
    let [letter, digit, third, rest @ ..] = code.as_bytes() else { return None };
    let rest = match rest {
        [] => rest,
        rest => Some(rest.strip_prefix(b".").unwrap_or(rest)).filter(|rest| !rest.is_empty())?,
    };
    let is_like = letter.is_ascii_uppercase()
        && digit.is_ascii_digit()
        && third.is_ascii_alphanumeric()
        && rest.len() <= 4
        && rest.iter().all(u8::is_ascii_alphanumeric);
    let (category, rest) = (code.get(..3).filter(|_| is_like)?, std::str::from_utf8(rest).ok()?);
    let written = if rest.is_empty() { category.to_owned() } else { format!("{category}.{rest}") };
    match system {
        Some(system) if system.find(&written).is_some() => Some(written),
        Some(system) if system.content == Content::Complete => None,
        _ => has_icd10_form(*letter, rest.as_bytes()).then_some(written),
    }
}

/// Whether `rest` may follow the point: a digit; a second one in the chapters that have a fifth character (mental disorders, the
/// musculoskeletal system, injuries and their causes); and there a seventh after `X` in what was left out.
fn has_icd10_form(letter: u8, rest: &[u8]) -> bool {
    let subdivided = matches!(letter, b'F' | b'M' | b'S' | b'T' | b'V' | b'W' | b'X' | b'Y');
    match rest {
        [] => true,
        [fourth] => fourth.is_ascii_digit(),
        [fourth, middle @ .., last] if subdivided => {
            let between = |c: &u8| c.is_ascii_digit() || rest.len() == 4 && *c == b'X';
            let end = if rest.len() == 4 { last.is_ascii_alphanumeric() } else { last.is_ascii_digit() };
            between(fourth) && middle.iter().all(between) && end
        }
        _ => false,
    }
}

fn of(map: &ConceptMap, group: &Group, equivalence: Equivalence) -> Translation {
    Translation {
        system: group.target.clone(),
        version: group.target_version.clone(),
        code: None,
        display: None,
        equivalence,
        source: map.header().url.clone(),
        product: Vec::new(),
    }
}

fn translation(map: &ConceptMap, group: &Group, target: &Target, exact: bool) -> Translation {
    // Through its category, a code is mapped to something that means more.
    let equivalence = match target.equivalence {
        Equivalence::Equal | Equivalence::Equivalent if !exact => Equivalence::Wider,
        stated => stated,
    };
    Translation {
        code: target.code.clone(),
        display: target.display.clone(),
        product: target.product.clone(),
        ..of(map, group, equivalence)
    }
}

/// The source codes that a map leads to `wanted` from.
fn backwards(map: &ConceptMap, wanted: &Coding, request: &TranslateRequest) -> Vec<Translation> {
    let target = request.target_system.as_deref();
    let mut found = Vec::new();
    for group in &map.groups {
        if group.target.as_deref() != wanted.system.as_deref() || target.is_some() && group.source.as_deref() != target {
            continue;
        }
        for (code, element) in group.leading_to(&wanted.code) {
            let leads = |target: &&Target| target.code.as_deref() == Some(&wanted.code) && target.holds_for(&request.dependencies);
            let stated = element.targets.iter().find(leads);
            let Some(stated) = stated else { continue };
            found.push(Translation {
                system: group.source.clone(),
                version: None,
                code: Some(code.clone()),
                display: element.display.clone(),
                ..of(map, group, stated.equivalence.reversed())
            });
        }
    }
    found
}
