//! The code lists of the HDU API: `codeSystems/icd…`, `codeSystems/loinc`, `generalCodes` and `standardCodes`.
//!
//! A *general* list is one of the template's own words (`CodeSystem/hdu-…`), a *standard* list any other code system that is loaded; the
//! namespace of a list is the id of its CodeSystem.

use super::Terminology;
use super::code_system::{CodeSystem, Concept, property_text};
use super::translate::ICD10;
use crate::fhir::text::fold;
use serde::Deserialize;
use serde_json::{Value, json};

const LOINC: &str = "http://loinc.org";
const GENERAL: &str = "hdu-";

/// Entries on one page, at most.
pub const MAX_PAGE_SIZE: usize = 1_000;

/// Entries on one page when nothing else is asked for.
const PAGE_SIZE: usize = 10;

/// Which part of a list is wanted, as the query string says it. A `page` or `pageSize` that is no positive number counts as not given.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Paging {
    /// Words that must all occur in the name or begin the code.
    pub q: Option<String>,
    /// From 1.
    pub page: Option<String>,
    pub page_size: Option<String>,
}

impl Paging {
    /// `{results, pager}` of the entries that fit, each given by its code, its name and how to write it.
    fn cut<T>(&self, entries: impl Iterator<Item = T>, words: impl Fn(&T) -> (String, String), write: impl Fn(T) -> Value) -> Value {
        let number = |text: &Option<String>| text.as_deref().and_then(|text| text.parse::<usize>().ok()).filter(|number| *number > 0);
        let page = number(&self.page).unwrap_or(1);
        let size = number(&self.page_size).unwrap_or(PAGE_SIZE).min(MAX_PAGE_SIZE);
        let wanted = self.q.as_deref().map(fold).unwrap_or_default();
        let fits = |entry: &T| {
            let (code, name) = words(entry);
            let (code, name) = (fold(&code), fold(&name));
            wanted.split(' ').all(|word| name.contains(word) || code.starts_with(word))
        };
        let first = page.saturating_sub(1).saturating_mul(size);
        let (mut total, mut results) = (0usize, Vec::new());
        for entry in entries.filter(|entry| wanted.is_empty() || fits(entry)) {
            if total >= first && results.len() < size {
                results.push(write(entry));
            }
            total += 1;
        }
        json!({ "results": results, "pager": { "page": page, "pageSize": size, "total": total, "totalPages": total.div_ceil(size) } })
    }
}

/// A level of ICD-10, as `codeSystems/icd/<level>` names it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IcdLevel {
    Chapters,
    Blocks,
    Categories,
    Codes,
}

impl IcdLevel {
    fn parse(segment: &str) -> Option<IcdLevel> {
        match segment {
            "chapters" => Some(IcdLevel::Chapters),
            "blocks" => Some(IcdLevel::Blocks),
            "categories" => Some(IcdLevel::Categories),
            "codes" => Some(IcdLevel::Codes),
            _ => None,
        }
    }

    /// By the property `kind`, else by the form of the code: `A00-B99` is a block, `A09` a category, `A09.0` a code.
    fn has(self, concept: &Concept) -> bool {
        let kind = concept.properties().iter().find(|(code, ..)| &**code == "kind").and_then(|(.., value)| property_text(value));
        let own = match kind {
            Some("chapter") => IcdLevel::Chapters,
            Some("block") => IcdLevel::Blocks,
            Some("category") => IcdLevel::Categories,
            Some(_) => IcdLevel::Codes,
            None if concept.code.contains('-') => IcdLevel::Blocks,
            None if !concept.code.contains(|c: char| c.is_ascii_digit()) => IcdLevel::Chapters,
            None if concept.code.len() == 3 => IcdLevel::Categories,
            None => IcdLevel::Codes,
        };
        own == self
    }
}

/// `codeSystems/icd/{level}`: the entries of one level (`chapters`, `blocks`, `categories` or `codes`), each naming its parent. `None` for another level.
pub fn icd(terminology: &Terminology, level: &str, paging: &Paging) -> Option<Value> {
    let level = IcdLevel::parse(level)?;
    Some(of_system(terminology, ICD10, paging, |concept| level.has(concept)))
}

/// `codeSystems/loinc`.
pub fn loinc(terminology: &Terminology, paging: &Paging) -> Option<Value> {
    Some(of_system(terminology, LOINC, paging, |_| true))
}

/// `generalCodes/{namespace}`, with or without the prefix `hdu-`; without namespace, `generalCodes`: which there are. `None` when there is no such list.
pub fn general(terminology: &Terminology, namespace: Option<&str>, paging: &Paging) -> Option<Value> {
    let Some(namespace) = namespace else { return Some(namespaces(terminology, paging, true)) };
    let loaded = terminology.loaded.load();
    let named = loaded.systems.id(namespace).filter(|_| namespace.starts_with(GENERAL));
    let system = named.or_else(|| loaded.systems.id(&format!("{GENERAL}{namespace}")))?;
    Some(codes(system, paging, |_| true))
}

/// `standardCodes/{namespace}`; without namespace, `standardCodes`: which there are. `None` when there is no such list.
pub fn standard(terminology: &Terminology, namespace: Option<&str>, paging: &Paging) -> Option<Value> {
    let Some(namespace) = namespace else { return Some(namespaces(terminology, paging, false)) };
    let loaded = terminology.loaded.load();
    let system = loaded.systems.id(namespace).filter(|_| !namespace.starts_with(GENERAL))?;
    Some(codes(system, paging, |_| true))
}

fn of_system(terminology: &Terminology, url: &str, paging: &Paging, keep: impl Fn(&Concept) -> bool) -> Value {
    let loaded = terminology.loaded.load();
    match loaded.systems.canonical(url) {
        Some(system) => codes(system, paging, keep),
        None => paging.cut(std::iter::empty::<()>(), |()| (String::new(), String::new()), |()| Value::Null),
    }
}

fn namespaces(terminology: &Terminology, paging: &Paging, general: bool) -> Value {
    let loaded = terminology.loaded.load();
    let systems = loaded.systems.all().into_iter().filter(|system| system.header.key.starts_with(GENERAL) == general);
    let title = |system: &CodeSystem| system.header.title.as_deref().or(system.header.name.as_deref()).unwrap_or_default().to_owned();
    paging.cut(
        systems,
        |system| (system.header.key.to_string(), title(system)),
        |system| json!({ "namespace": system.header.key, "name": title(system), "system": system.url(), "total": system.concepts.len() }),
    )
}

fn codes(system: &CodeSystem, paging: &Paging, keep: impl Fn(&Concept) -> bool) -> Value {
    let name = |concept: &Concept| concept.display.as_deref().unwrap_or_default().to_owned();
    paging.cut(
        system.concepts.iter().filter(|concept| keep(concept)),
        |concept| (concept.code.to_string(), name(concept)),
        |concept| {
            let parent = concept.parents.first().and_then(|&place| system.at(place)).map(|parent| &*parent.code);
            json!({ "code": &*concept.code, "name": name(concept), "system": system.url(), "version": system.header.version, "parent": parent })
        },
    )
}
