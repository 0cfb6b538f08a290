//! The code lists of the HDU API: `codeSystems/icd…`, `codeSystems/loinc`, `generalCodes` and `standardCodes`.
//!
//! A *general* list is one of the template's own words (`CodeSystem/hdu-…`), a *standard* list any other code system that is loaded; the
//! namespace of a list is the id of its CodeSystem.

use super::Terminology;
use super::code_system::{CodeSystem, Concept, property_text};
use super::translate::ICD10;
use crate::fhir::text::fold;
use serde_json::{Value, json};

const LOINC: &str = "http://loinc.org";
const GENERAL: &str = "hdu-";

/// Entries on one page, at most.
pub const MAX_PAGE_SIZE: usize = 1_000;

/// Which part of a list is wanted.
#[derive(Clone, Debug)]
pub struct Page {
    /// Words that must all occur in the name or begin the code.
    pub q: Option<String>,
    /// Exactly this code, in any case.
    pub code: Option<String>,
    /// From 1.
    pub page: usize,
    pub page_size: usize,
}

impl Default for Page {
    fn default() -> Self {
        Page { q: None, code: None, page: 1, page_size: 10 }
    }
}

impl Page {
    /// Reads `q`, `code`, `page` and `pageSize`. An error is the name of the parameter that must be a number of 1 or more and is none; an
    /// empty one counts as not given.
    pub fn from_query<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Page, &'static str> {
        let mut page = Page::default();
        for (name, value) in pairs {
            match name {
                "q" => page.q = Some(value.to_owned()).filter(|text| !text.trim().is_empty()),
                "code" => page.code = Some(value.trim().to_owned()).filter(|code| !code.is_empty()),
                "page" => page.page = positive(value).ok_or("page")?.unwrap_or(page.page),
                "pageSize" => page.page_size = positive(value).ok_or("pageSize")?.unwrap_or(page.page_size).min(MAX_PAGE_SIZE),
                _ => {}
            }
        }
        Ok(page)
    }

    /// `{results, pager}` of the entries that fit, each given by its code, its name and how to write it.
    fn cut<T>(&self, entries: impl Iterator<Item = T>, words: impl Fn(&T) -> (String, String), write: impl Fn(T) -> Value) -> Value {
        let wanted = self.q.as_deref().map(fold).unwrap_or_default();
        let fits = |entry: &T| {
            let (code, name) = words(entry);
            if self.code.as_ref().is_some_and(|asked| !asked.eq_ignore_ascii_case(&code)) {
                return false;
            }
            let (code, name) = (fold(&code), fold(&name));
            wanted.is_empty() || wanted.split(' ').all(|word| name.contains(word) || code.starts_with(word))
        };
        let first = (self.page.saturating_sub(1)).saturating_mul(self.page_size);
        let (mut total, mut results) = (0usize, Vec::new());
        for entry in entries.filter(|entry| wanted.is_empty() && self.code.is_none() || fits(entry)) {
            if total >= first && results.len() < self.page_size {
                results.push(write(entry));
            }
            total += 1;
        }
        let pages = total.div_ceil(self.page_size.max(1));
        json!({ "results": results, "pager": { "page": self.page, "pageSize": self.page_size, "total": total, "totalPages": pages } })
    }
}

/// A number of 1 or more; `Some(None)`: none is given; `None`: it is no such number.
pub fn positive(text: &str) -> Option<Option<usize>> {
    match text.trim() {
        "" => Some(None),
        text => text.parse::<usize>().ok().filter(|number| *number > 0).map(Some),
    }
}

/// A level of ICD-10, as `codeSystems/icd/<level>` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcdLevel {
    Chapters,
    Blocks,
    Categories,
    Codes,
}

impl IcdLevel {
    /// The level of a path segment.
    pub fn parse(segment: &str) -> Option<IcdLevel> {
        match segment {
            "chapters" => Some(IcdLevel::Chapters),
            "blocks" => Some(IcdLevel::Blocks),
            "categories" => Some(IcdLevel::Categories),
            "codes" => Some(IcdLevel::Codes),
            _ => None,
        }
    }

    /// By the property `kind`, else by the form of the code: `A00-B99` is a block, `A09` a category, `A09.0` a code. A category that nothing
    /// divides (`B54`) is what diagnoses are coded with, and so a code too.
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
        own == self || self == IcdLevel::Codes && own == IcdLevel::Categories && concept.children.is_empty()
    }
}

impl Terminology {
    /// `codeSystems/icd`: every entry, or those of one level. Each names its parent.
    pub fn hdu_icd(&self, level: Option<IcdLevel>, page: &Page) -> Value {
        self.hdu_codes(ICD10, page, |concept| level.is_none_or(|level| level.has(concept)))
    }

    /// `codeSystems/loinc`.
    pub fn hdu_loinc(&self, page: &Page) -> Value {
        self.hdu_codes(LOINC, page, |_| true)
    }

    /// `generalCodes`: the namespaces of the template's own words.
    pub fn hdu_general_namespaces(&self, page: &Page) -> Value {
        self.hdu_namespaces(page, true)
    }

    /// `generalCodes/{namespace}`, with or without the prefix `hdu-`. `None` when there is no such list.
    pub fn hdu_general(&self, namespace: &str, page: &Page) -> Option<Value> {
        let loaded = self.loaded.load();
        let system = loaded
            .systems
            .id(namespace)
            .filter(|_| namespace.starts_with(GENERAL))
            .or_else(|| loaded.systems.id(&format!("{GENERAL}{namespace}")))?;
        Some(codes(system, page, |_| true))
    }

    /// `standardCodes`: the namespaces of every other code system.
    pub fn hdu_standard_namespaces(&self, page: &Page) -> Value {
        self.hdu_namespaces(page, false)
    }

    /// `standardCodes/{namespace}`. `None` when there is no such list.
    pub fn hdu_standard(&self, namespace: &str, page: &Page) -> Option<Value> {
        let loaded = self.loaded.load();
        let system = loaded.systems.id(namespace).filter(|_| !namespace.starts_with(GENERAL))?;
        Some(codes(system, page, |_| true))
    }

    fn hdu_codes(&self, url: &str, page: &Page, keep: impl Fn(&Concept) -> bool) -> Value {
        let loaded = self.loaded.load();
        match loaded.systems.canonical(url) {
            Some(system) => codes(system, page, keep),
            None => page.cut(std::iter::empty::<()>(), |()| (String::new(), String::new()), |()| Value::Null),
        }
    }

    fn hdu_namespaces(&self, page: &Page, general: bool) -> Value {
        let loaded = self.loaded.load();
        let all = loaded.systems.all();
        let systems = all.into_iter().filter(|system| system.header.key.starts_with(GENERAL) == general);
        let title = |system: &CodeSystem| system.header.title.as_deref().or(system.header.name.as_deref()).unwrap_or_default().to_owned();
        page.cut(
            systems,
            |system| (system.header.key.to_string(), title(system)),
            |system| json!({ "namespace": system.header.key, "name": title(system), "system": system.url(), "total": system.concepts.len() }),
        )
    }
}

fn codes(system: &CodeSystem, page: &Page, keep: impl Fn(&Concept) -> bool) -> Value {
    let name = |concept: &Concept| concept.display.as_deref().unwrap_or_default().to_owned();
    page.cut(
        system.concepts.iter().filter(|concept| keep(concept)),
        |concept| (concept.code.to_string(), name(concept)),
        |concept| {
            let parent = concept.parents.first().and_then(|&place| system.at(place)).map(|parent| &*parent.code);
            json!({ "code": &*concept.code, "name": name(concept), "system": system.url(), "version": system.header.version.as_deref(), "parent": parent })
        },
    )
}
