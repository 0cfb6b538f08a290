//! Data Templates to canonical FHIR: a payload of one facility with a list of visits, in; resources and a verdict for each visit, out.
//!
//! A template is data, not Rust. Its folder in `profiles/templates` holds a JSON Schema (what a record may say), rules
//! (FHIRPath conditions on a record) and a mapping (which resources a record gives); no field of any template is named in
//! this room. A record is walked by the schema into a normal form ([`schema`]), held against the rules and mapped
//! ([`mapping`], [`produce`]). A record that fails takes no other with it, and every problem is told with its path.
//!
//! Codes are translated only through [`Translate`]; what has no translation keeps its own coding and is listed. Ids are made from
//! the facility's code and its own keys, so that the same visit sent again meets the same resources ([`Update`] says how).
//!
//! It must never know where resources are kept, nor how a payload arrived or how the verdicts travel back.

#[cfg(test)]
mod coverage;
mod cut;
mod definition;
mod expr;
mod forget;
mod judge;
mod mapping;
mod merge;
mod moment;
mod produce;
#[cfg(test)]
mod removal;
mod schema;
#[cfg(test)]
mod tests;

pub use definition::{Definition, TemplateError};
pub use forget::forget;
pub use mapping::Update;
pub use merge::merge;

use crate::access::MAX_FACILITY_CODE;
use crate::fhir::{Issue, IssueCode, Severity};
use definition::Files;
use jiff::tz::TimeZone;
pub(super) use produce::NAMESPACE;
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::Path;
use uuid::Uuid;

/// The templates that this deployment takes.
#[derive(Debug)]
pub struct Templates {
    definitions: Vec<Definition>,
}

/// Resources that are stored, by `Type/id`.
pub type Known = HashMap<String, Value>;

/// What surrounds a payload.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The caller's facility, where that is known: it wins over what the payload says.
    pub facility: Option<&'a str>,
    /// The operator's own organisation: owner of what names no facility.
    pub operator: &'a str,
    /// How times without a zone are read, and which day a time falls on.
    pub zone: &'a TimeZone,
    /// Mandatory marks inside blocks reject a record; otherwise they are warnings, as in the original.
    pub strict_blocks: bool,
    /// Rules and mandatory marks reject a record. Without it they are warnings, and only what cannot be read or has no identity is rejected.
    pub judged: bool,
    /// What mappings ask of the store; [`Record::wanted`] says what that would have been.
    pub stored: &'a Known,
}

/// A code in a system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coding {
    pub system: Option<String>,
    pub code: String,
    pub display: Option<String>,
    /// `ConceptMap.group.element.target.equivalence`.
    pub equivalence: Option<String>,
}

impl Coding {
    fn into_json(self) -> Value {
        let mut map = Map::new();
        map.extend(self.system.map(|system| ("system".to_owned(), Value::String(system))));
        map.insert("code".to_owned(), Value::String(self.code));
        map.extend(self.display.map(|display| ("display".to_owned(), Value::String(display))));
        Value::Object(map)
    }
}

/// ConceptMaps, as this room needs them.
pub trait Translate {
    /// What `code` of `system` becomes by the map with this canonical url; `None` or nothing when it has no translation.
    fn translate(&self, map_url: &str, system: Option<&str>, code: &str) -> Option<Vec<Coding>>;
}

/// A payload of which the envelope was read.
#[derive(Debug)]
pub struct Opened {
    /// The template's name.
    pub template: String,
    /// Among whose ids its clients have theirs; `None`: among the facility's.
    pub space: Option<String>,
    pub facility: Facility,
    /// The day or moment that the payload says it reports for.
    pub reported: Option<String>,
    pub warnings: Vec<Issue>,
    /// Resources of the submission as a whole.
    pub shared: Vec<Produced>,
    /// The place of the template in [`Templates`].
    definition: usize,
    /// The key of the list, and the places of its entries in the payload.
    list: String,
    entries: Vec<Range<usize>>,
    /// Each entry is one block of this name only.
    block: Option<String>,
    visit_path: Option<String>,
}

impl Opened {
    /// How many records the payload has.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Where in a record its visit's id stands.
    pub fn visit_path(&self) -> Option<&str> {
        self.visit_path.as_deref()
    }
}

/// A record in its normal form, held against the rules.
#[derive(Debug)]
pub struct Judged {
    pub identity: Identity,
    /// Nothing of it is translated yet.
    record: Record,
    value: Value,
    judged: bool,
}

impl Judged {
    pub fn is_rejected(&self) -> bool {
        !self.record.errors.is_empty()
    }

    pub fn visit_id(&self) -> Option<&str> {
        self.record.visit_id.as_deref()
    }

    /// The place of the record in its list.
    pub fn index(&self) -> usize {
        self.record.index
    }
}

/// What a record says of who its client is.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Clients are no matter of this template.
    pub is_absent: bool,
    /// The facility's own number of the client.
    pub number: Option<String>,
    /// Where in the record the number stands.
    pub number_path: Option<String>,
    /// Other identifiers, each as `TYPE|value`; other numbers as they are.
    pub others: Vec<String>,
    /// Those of the others that are one person's own: of a type that the template calls strong, and other numbers.
    pub strong: BTreeSet<String>,
    /// Where in the record something stands that is no identifier (`N/A`, `0`): nobody is known by it.
    pub placeholders: Vec<String>,
    /// What else tells people apart, such as names and birth date.
    pub likeness: Traits,
    /// Where the client is reached, which two people seldom share and one person may change.
    pub contact: Traits,
    /// What the record says of the visit that two people's visits would seldom share.
    pub care: Traits,
    /// The path within the record of what must be said when the client cannot be told; `None`: there need not be one.
    pub needs: Option<String>,
}

/// What tells people, or their visits, apart: each by its name and in one spelling.
#[derive(Clone, Debug, Default)]
pub struct Traits {
    pub told: Map<String, Value>,
    /// All that may not stay away is told.
    pub is_whole: bool,
}

impl Identity {
    /// What a client is called by who knows nothing of others: the number, else the first identifier.
    pub fn own_key(&self) -> Option<&str> {
        self.number.as_deref().or(self.others.first().map(String::as_str))
    }
}

/// A payload's verdicts.
#[derive(Debug)]
pub struct Processed {
    /// The template's name.
    pub template: String,
    pub facility: Facility,
    /// The day or moment that the payload says it reports for.
    pub reported: Option<String>,
    pub envelope_warnings: Vec<Issue>,
    /// Resources of the submission as a whole, such as Organizations: each id once, to be stored before the records'.
    pub shared: Vec<Produced>,
    /// One for each entry of the list, in its order. Empty for a zero report.
    pub records: Vec<Record>,
    /// What the records want.
    pub wanted: BTreeSet<String>,
}

/// Who sent the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facility {
    pub code: String,
    pub name: Option<String>,
    /// The record system's name and version.
    pub system: Option<String>,
}

impl Facility {
    fn to_json(&self) -> Value {
        json!({ "code": self.code, "name": self.name, "system": self.system })
    }
}

/// One entry of the list.
#[derive(Debug, Default)]
pub struct Record {
    pub index: usize,
    /// Where it stands in the payload, such as `listGrid[3]`: what the paths of its problems begin with.
    pub path: String,
    /// How the reply names it, such as `MRN=…`. Patient data: for the sender only.
    pub label: String,
    pub visit_id: Option<String>,
    /// Derived from the template, the facility and the visit's own id: the same whenever the visit comes again.
    pub visit_key: Option<Uuid>,
    /// The lists of the visit that the record speaks of.
    pub lists: Vec<Listed>,
    /// The client's identifiers as (type, value), for the reply.
    pub identifiers: Vec<(String, String)>,
    /// The client's identifiers as they were last sent, with this record or before.
    pub known: Vec<(String, String)>,
    pub verdict: Verdict,
    /// What belongs to the submission and not to the record, such as Organizations.
    pub shared: Vec<Produced>,
    /// `Type/id` of what the mapping asked of the store and was not given: the date of a visit that the record does not say again.
    pub wanted: BTreeSet<String>,
    /// Why it is rejected; empty when it is accepted.
    pub errors: Vec<Issue>,
    pub warnings: Vec<Issue>,
    pub unmapped: Vec<Unmapped>,
}

impl Record {
    /// The paths of a record that was an entry of a list of `block`s: `labRequestDetails[3].labRequestDetails[0].x` is the sender's
    /// `labRequestDetails[3].x`.
    fn flatten(&mut self, block: &str) {
        let inner = format!("{}.{block}[0]", self.path);
        let flat = |path: &mut String| {
            if let Some(rest) = path.strip_prefix(&inner) {
                *path = format!("{}{rest}", self.path);
            }
        };
        self.errors.iter_mut().chain(&mut self.warnings).for_each(|issue| flat(&mut issue.expression));
        self.unmapped.iter_mut().for_each(|code| flat(&mut code.path));
    }
}

#[derive(Debug, Default)]
pub enum Verdict {
    Accepted {
        resources: Vec<Produced>,
    },
    #[default]
    Rejected,
}

/// A list of a visit that a record holds, an empty one included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Unlike any other list's of the same visit.
    pub name: String,
    /// It says all there is: what it made before and makes no longer is withdrawn. `false` when an entry could not be read.
    pub whole: bool,
}

/// A resource with its id, and how it meets what is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Produced {
    pub resource: Value,
    pub update: Update,
    /// The place in [`Record::lists`] of the list that made it.
    pub list: Option<usize>,
    /// With [`Update::Existing`] and [`Update::Known`]: the path within the record of what must be said when nothing is stored.
    pub needs: Option<String>,
    shared: bool,
}

/// A code that no map translates: kept as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmapped {
    /// Canonical url of the ConceptMap.
    pub map: String,
    pub system: Option<String>,
    pub code: String,
    pub display: Option<String>,
    /// Where it stands in the payload.
    pub path: String,
}

/// The payload as a whole cannot be taken.
#[derive(Debug, thiserror::Error)]
#[error("{}", issues.first().map_or("the payload cannot be read", |issue| issue.diagnostics.as_str()))]
pub struct EnvelopeError {
    pub issues: Vec<Issue>,
}

impl Templates {
    /// The templates in the program.
    pub fn shipped() -> Result<Templates, TemplateError> {
        Ok(Templates { definitions: Files::shipped().definitions()? })
    }

    /// The templates in the program, with the files of `folder` laid over them.
    pub fn load(folder: &Path) -> Result<Templates, TemplateError> {
        let mut files = Files::shipped();
        files.overlay(folder).map_err(|wrong| definition::error(&folder.display().to_string(), "", &wrong.to_string()))?;
        Ok(Templates { definitions: files.definitions()? })
    }

    pub fn definitions(&self) -> impl Iterator<Item = &Definition> {
        self.definitions.iter()
    }

    pub fn get(&self, name: &str) -> Option<&Definition> {
        self.definitions.iter().find(|definition| definition.name == name)
    }

    /// Whether a payload has more records than `most`, wherever one of the templates looks for them. Reads nothing else of it.
    pub fn exceeds(&self, payload: &[u8], most: usize) -> bool {
        self.definitions.iter().flat_map(Definition::lists).any(|path| cut::count(payload, path, most) > most)
    }

    /// Reads a payload's envelope by the template that it names, else by the default one; `as_template`: by this one, whatever it names.
    pub fn open(
        &self,
        payload: &[u8],
        as_template: Option<&str>,
        options: &Options<'_>,
        translate: &dyn Translate,
    ) -> Result<Opened, EnvelopeError> {
        crate::fhir::json::check(payload).map_err(|error| unreadable(&error))?;
        let cut = cut::cut(payload, self.definitions.iter().flat_map(Definition::lists));
        let envelope = crate::fhir::json::parse(&cut.envelope).map_err(|error| unreadable(&error))?;
        let place = |wanted: &dyn Fn(&Definition) -> bool| self.definitions.iter().position(wanted);
        let forced = as_template.and_then(|name| place(&|definition| definition.name == name));
        let chosen = forced.or_else(|| place(&|definition| definition.is_chosen_by(&envelope)));
        let Some((index, definition)) =
            chosen.or_else(|| place(&|definition| definition.is_default)).and_then(|index| Some((index, self.definitions.get(index)?)))
        else {
            return Err(refused("", IssueCode::NotSupported, "names no template that is known here, and there is no default one"));
        };
        let named = if chosen.is_some() { None } else { definition.named_at(&envelope) };
        let mut opened = definition.open(envelope, cut, options, translate)?;
        opened.definition = index;
        if let Some(path) = named {
            let words = format!("names a template that is not known here; the payload is read by the template {}", definition.name);
            opened.warnings.push(Issue::warning(IssueCode::NotFound, words).at(path));
        }
        Ok(opened)
    }

    /// Reads the record at `index` and holds it against the rules.
    pub fn judge(&self, opened: &Opened, payload: &[u8], index: usize, options: &Options<'_>, translate: &dyn Translate) -> Judged {
        let text = opened.entries.get(index).and_then(|range| payload.get(range.clone())).unwrap_or_default();
        // The payload was found to be good JSON as a whole.
        let value = crate::fhir::json::parse(text).unwrap_or_default();
        let value = match &opened.block {
            Some(block) => json!({ block: [value] }),
            None => value,
        };
        match self.definitions.get(opened.definition) {
            Some(definition) => definition.judge(opened, index, value, options, translate),
            None => Judged { identity: Identity::default(), record: Record::default(), value, judged: true },
        }
    }

    /// Makes the resources of a record that is about `client`. `stored`: what an earlier try wanted.
    pub fn translate(&self, opened: &Opened, judged: &Judged, client: Option<&str>, stored: &Known, translate: &dyn Translate) -> Record {
        let mut record = match self.definitions.get(opened.definition) {
            Some(definition) => definition.translate(opened, judged, client, stored, translate),
            None => Record::default(),
        };
        if let Some(block) = &opened.block {
            record.flatten(block);
        }
        record
    }

    /// Judges and translates a payload as if nothing had ever been sent before: each record is about the client that it names first.
    pub fn process(&self, payload: &[u8], options: &Options<'_>, translate: &dyn Translate) -> Result<Processed, EnvelopeError> {
        let mut opened = self.open(payload, None, options, translate)?;
        let mut shared = Shared::default();
        std::mem::take(&mut opened.shared).into_iter().for_each(|produced| {
            shared.add(produced);
        });
        let (mut records, mut wanted) = (Vec::with_capacity(opened.len()), BTreeSet::new());
        for index in 0..opened.len() {
            let judged = self.judge(&opened, payload, index, options, translate);
            let mut record = self.translate(&opened, &judged, judged.identity.own_key(), options.stored, translate);
            std::mem::take(&mut record.shared).into_iter().for_each(|produced| {
                shared.add(produced);
            });
            wanted.extend(record.wanted.iter().cloned());
            records.push(record);
        }
        let Opened { template, facility, reported, warnings, .. } = opened;
        Ok(Processed { template, facility, reported, envelope_warnings: warnings, shared: shared.list, records, wanted })
    }
}

/// Resources of the submission, each id once.
#[derive(Debug, Default)]
pub struct Shared {
    list: Vec<Produced>,
    places: HashMap<String, usize>,
}

impl Shared {
    /// What is known of a resource now that this is said too; `None` when nothing more is than before.
    pub fn add(&mut self, produced: Produced) -> Option<&Produced> {
        let id = text(produced.resource.get("id").cloned()).unwrap_or_default();
        let Some(place) = self.places.get(&id).copied() else {
            self.places.insert(id, self.list.len());
            self.list.push(produced);
            return self.list.last();
        };
        let known = self.list.get_mut(place)?;
        // Whoever knows more than an identifier speaks; two who do are laid over each other.
        if produced.update == Update::IfAbsent {
            return None;
        }
        let resource = if known.update == Update::IfAbsent { produced.resource } else { merge(&known.resource, &produced.resource) };
        let is_new = known.update == Update::IfAbsent || known.resource != resource;
        *known = Produced { resource, ..produced };
        is_new.then_some(known)
    }
}

fn unreadable(error: &crate::fhir::json::JsonError) -> EnvelopeError {
    refused("", IssueCode::Structure, &format!("the payload is no JSON that can be read: {error}"))
}

fn refused(path: &str, code: IssueCode, words: &str) -> EnvelopeError {
    EnvelopeError { issues: vec![Issue::error(code, words).at(path)] }
}

fn text(value: Option<Value>) -> Option<String> {
    match value {
        Some(Value::String(text)) if !text.is_empty() => Some(text),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    }
}
