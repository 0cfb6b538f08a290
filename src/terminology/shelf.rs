//! Resources of one type, found by id or by canonical URL.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

/// What every definitional resource says of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Header {
    /// The resource's id; its url when it has none.
    pub key: Box<str>,
    pub url: Option<Arc<str>>,
    pub version: Option<Arc<str>>,
    pub name: Option<Box<str>>,
    pub title: Option<Box<str>>,
    pub status: Option<Box<str>>,
    pub language: Option<Arc<str>>,
}

impl Header {
    /// `None` without id and url.
    pub fn read(resource: &serde_json::Value) -> Option<Header> {
        let text = |name: &str| resource.get(name).and_then(serde_json::Value::as_str);
        Some(Header {
            key: text("id").or(text("url"))?.into(),
            url: text("url").map(Arc::from),
            version: text("version").map(Arc::from),
            name: text("name").map(Box::from),
            title: text("title").map(Box::from),
            status: text("status").map(Box::from),
            language: text("language").map(Arc::from),
        })
    }

    /// `url|version`, or as much of it as there is.
    pub fn canonical(&self) -> Option<String> {
        let url = self.url.as_ref()?;
        Some(self.version.as_ref().map_or_else(|| url.to_string(), |version| format!("{url}|{version}")))
    }

    /// Which of two resources with one url answers when no version is asked for: an active one, then the higher version.
    fn preference(&self, other: &Header) -> Ordering {
        let active = |header: &Header| header.status.as_deref() == Some("active");
        let version = |header: &Header| header.version.clone().unwrap_or_default();
        active(self)
            .cmp(&active(other))
            .then_with(|| compare_versions(&version(self), &version(other)))
            .then_with(|| self.key.cmp(&other.key))
    }
}

/// Versions compared part by part, numbers as numbers: `1.10` is above `1.9`.
fn compare_versions(a: &str, b: &str) -> Ordering {
    let part = |text: &str| (text.parse::<u64>().unwrap_or(0), text.to_owned());
    a.split(['.', '-']).map(part).cmp(b.split(['.', '-']).map(part))
}

/// What a request named, for the words that say that it is not there.
pub(super) fn named(url: &str, version: Option<&str>) -> String {
    version.map_or_else(|| format!("url {url}"), |version| format!("url {url} and version {version}"))
}

/// Compiles a resource that came with the question; it need have neither id nor url.
pub(super) fn inline<T>(
    resource: &serde_json::Value,
    compile: impl Fn(&serde_json::Value) -> Option<T>,
    name: &str,
) -> Result<T, super::TerminologyError> {
    let mut named = resource.clone();
    if let Some(fields) = named.as_object_mut() {
        fields.entry("id").or_insert_with(|| "inline".into());
    }
    compile(&named).ok_or_else(|| super::TerminologyError::Invalid { name: name.to_owned(), hint: "send a resource of that type" })
}

pub(super) trait Shelved {
    fn header(&self) -> &Header;
}

/// Cloning shares the resources, so a changed shelf costs pointers only.
pub(super) struct Shelf<T> {
    by_key: HashMap<Box<str>, Arc<T>>,
    /// The preferred one comes last.
    by_url: HashMap<Arc<str>, Vec<Arc<T>>>,
}

impl<T> Clone for Shelf<T> {
    fn clone(&self) -> Self {
        Shelf { by_key: self.by_key.clone(), by_url: self.by_url.clone() }
    }
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Shelf { by_key: HashMap::new(), by_url: HashMap::new() }
    }
}

impl<T: Shelved> Shelf<T> {
    pub fn put(&mut self, resource: Arc<T>) {
        let header = resource.header();
        self.remove(&header.key);
        self.by_key.insert(header.key.clone(), resource.clone());
        if let Some(url) = header.url.clone() {
            let versions = self.by_url.entry(url).or_default();
            versions.push(resource);
            versions.sort_by(|a, b| a.header().preference(b.header()));
        }
    }

    pub fn remove(&mut self, key: &str) {
        let Some(gone) = self.by_key.remove(key) else { return };
        let Some(url) = &gone.header().url else { return };
        if let Some(versions) = self.by_url.get_mut(url) {
            versions.retain(|kept| kept.header().key.as_ref() != key);
            if versions.is_empty() {
                self.by_url.remove(url);
            }
        }
    }

    pub fn id(&self, id: &str) -> Option<&Arc<T>> {
        self.by_key.get(id)
    }

    /// By `url` or `url|version` (<https://hl7.org/fhir/R4/references.html#canonical>).
    pub fn canonical(&self, canonical: &str) -> Option<&Arc<T>> {
        match canonical.split_once('|') {
            Some((url, version)) => self.version(url, Some(version)),
            None => self.version(canonical, None),
        }
    }

    pub fn version(&self, url: &str, version: Option<&str>) -> Option<&Arc<T>> {
        let versions = self.by_url.get(url)?;
        match version {
            Some(version) => versions.iter().rev().find(|one| one.header().version.as_deref() == Some(version)),
            None => versions.last(),
        }
    }

    /// The preferred resource of every url, in no order.
    pub fn preferred(&self) -> impl Iterator<Item = &Arc<T>> {
        self.by_url.values().filter_map(|versions| versions.last())
    }

    /// The preferred resource of every url, and those without url, ordered by key.
    pub fn all(&self) -> Vec<&Arc<T>> {
        let without_url = self.by_key.values().filter(|one| one.header().url.is_none());
        let mut all: Vec<&Arc<T>> = self.preferred().chain(without_url).collect();
        all.sort_by(|a, b| a.header().key.cmp(&b.header().key));
        all
    }
}
