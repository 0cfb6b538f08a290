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
mod definition;
mod expr;
mod forget;
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
use expr::Scope;
use jiff::tz::TimeZone;
use mapping::Part;
use produce::Run;
use schema::Walk;
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap};
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
    /// What mappings ask of the store; [`Processed::wanted`] says what that would have been.
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
    /// `Type/id` of what the mapping asked of the store and was not given: the date of a visit that a record does not say again.
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

/// One entry of the list.
#[derive(Debug)]
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
    pub verdict: Verdict,
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

#[derive(Debug)]
pub enum Verdict {
    Accepted { resources: Vec<Produced> },
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

    /// Judges and translates a payload by the template that it names, else by the default one.
    pub fn process(&self, payload: &[u8], options: &Options<'_>, translate: &dyn Translate) -> Result<Processed, EnvelopeError> {
        let payload = parse(payload)?;
        let chosen = self.definitions.iter().find(|definition| definition.is_chosen_by(&payload));
        let Some(definition) = chosen.or_else(|| self.definitions.iter().find(|definition| definition.is_default)) else {
            return Err(refused("", IssueCode::NotSupported, "names no template that is known here, and there is no default one"));
        };
        let named = if chosen.is_some() { None } else { definition.named_at(&payload) };
        let mut processed = definition.process(payload, options, translate)?;
        if let Some(path) = named {
            let words = format!("names a template that is not known here; the payload is read by the template {}", definition.name);
            processed.envelope_warnings.push(Issue::warning(IssueCode::NotFound, words).at(path));
        }
        Ok(processed)
    }
}

impl Definition {
    fn is_chosen_by(&self, payload: &Value) -> bool {
        let scope = Scope::of(payload);
        self.select
            .iter()
            .filter_map(|select| select.eval(&scope).ok())
            .flatten()
            .any(|value| value.as_str().is_some_and(|code| self.codes.iter().any(|known| known.eq_ignore_ascii_case(code.trim()))))
    }

    /// Where a payload names a template.
    fn named_at(&self, payload: &Value) -> Option<String> {
        let scope = Scope::of(payload);
        let named = self.select.iter().find(|select| select.eval(&scope).is_ok_and(|found| !found.is_empty()))?;
        Some(named.member().unwrap_or_default())
    }

    /// Judges and translates a payload by this template, whatever it names.
    pub fn process_bytes(&self, payload: &[u8], options: &Options<'_>, translate: &dyn Translate) -> Result<Processed, EnvelopeError> {
        self.process(parse(payload)?, options, translate)
    }

    fn process(&self, mut payload: Value, options: &Options<'_>, translate: &dyn Translate) -> Result<Processed, EnvelopeError> {
        let (list_path, list) = self.take_records(&mut payload)?;
        let flat = self.flat.as_ref().filter(|(path, _)| path.last().map(String::as_str) == Some(list_path));
        let mut walk = Walk::of_envelope(&self.schema, options.zone, options.strict_blocks);
        let envelope = walk.value(self.schema.root(), payload, true).unwrap_or_default();
        // The list was there, and was taken out.
        let list_at = self.records.join(".");
        let issues = walk.issues.into_iter().filter(|issue| issue.expression != list_at);
        let (errors, mut envelope_warnings): (Vec<_>, Vec<_>) = issues.partition(|issue| issue.severity.is_error());
        if !errors.is_empty() {
            return Err(EnvelopeError { issues: errors });
        }

        let mut run = Run::new(&self.schema, translate, options.stored, &envelope, "");
        let scope = Scope::of(&envelope);
        let payload = scope.var("payload", &envelope);
        let scope = scope.within(&payload);
        let said = run.one(&self.facility, &scope).unwrap_or_default();
        if said.get("code").and_then(Value::as_str).is_some_and(|code| code.len() > MAX_FACILITY_CODE) {
            return Err(refused(&self.facility_path(), IssueCode::TooLong, "names a facility by a code that is longer than 128 bytes"));
        }
        let reported = text(run.one(&self.reported, &scope));
        let facility = Facility {
            code: self.owner(&said, options, &mut envelope_warnings),
            name: text(said.get("name").cloned()),
            system: text(said.get("system").cloned()),
        };
        let facility_json = json!({ "code": facility.code, "name": facility.name, "system": facility.system });
        let var = scope.var("facility", &facility_json);
        run.carry_out(&self.mapping.submission, &scope.within(&var));
        envelope_warnings.append(&mut run.faults);
        envelope_warnings.append(&mut run.told);

        let mut shared = Shared::default();
        run.produced.into_iter().for_each(|produced| shared.add(produced));
        let records = list.into_iter().enumerate();
        let records = records
            .map(|(index, value)| match flat {
                None => self.record(index, value, list_path, &facility_json, options, translate, &mut shared),
                Some((_, block)) => {
                    let mut record =
                        self.record(index, json!({ block: [value] }), list_path, &facility_json, options, translate, &mut shared);
                    record.flatten(block);
                    record
                }
            })
            .collect();
        let Shared { list: shared, wanted, .. } = shared;
        Ok(Processed { template: self.name.clone(), facility, reported, envelope_warnings, shared, records, wanted })
    }

    /// Takes the list of records out of the payload. Gives the list's key and its entries.
    fn take_records(&self, payload: &mut Value) -> Result<(&str, Vec<Value>), EnvelopeError> {
        if let Some((path, _)) = &self.flat
            && let Some((last, parents)) = path.split_last()
            && let Some(map) = parents.iter().try_fold(&mut *payload, |place, step| place.get_mut(step)).and_then(Value::as_object_mut)
            && self.records.last().is_some_and(|list| !map.contains_key(list))
            && let Some(Value::Array(list)) = map.get_mut(last)
        {
            let list = std::mem::take(list);
            map.shift_remove(last);
            return Ok((last, list));
        }
        let (last, parents) = self.records.split_last().map_or(("", &[][..]), |(last, parents)| (last.as_str(), parents));
        let (mut place, mut path) = (payload, String::new());
        for step in parents {
            if !place.is_object() {
                break;
            }
            path = if path.is_empty() { step.clone() } else { format!("{path}.{step}") };
            place = match place.get_mut(step) {
                Some(inner) => inner,
                None => return Err(refused(&path, IssueCode::Required, "is mandatory and is missing")),
            };
        }
        let Some(map) = place.as_object_mut() else { return Err(refused(&path, IssueCode::Structure, "must be a JSON object")) };
        let full = self.records.join(".");
        match map.shift_remove(last) {
            Some(Value::Array(list)) => Ok((last, list)),
            Some(Value::Null) | None => {
                Err(refused(&full, IssueCode::Required, "is mandatory and is missing; send an empty list when there is nothing to report"))
            }
            Some(_) => Err(refused(&full, IssueCode::Structure, "must be a list of records")),
        }
    }

    fn owner(&self, said: &Value, options: &Options<'_>, warnings: &mut Vec<Issue>) -> String {
        let claimed = said.get("code").and_then(Value::as_str);
        match (options.facility, claimed) {
            (Some(caller), Some(claimed)) if caller != claimed => {
                let words = "the payload names another facility than the one that is sending; it is taken as the sender's own";
                warnings.push(Issue::warning(IssueCode::Security, words).at(self.facility_path()));
                caller.to_owned()
            }
            (Some(caller), _) => caller.to_owned(),
            (None, Some(claimed)) => claimed.to_owned(),
            (None, None) => {
                let words = "the payload names no facility; it is taken as the operator's own";
                warnings.push(Issue::warning(IssueCode::Required, words).at(self.facility_path()));
                options.operator.to_owned()
            }
        }
    }

    /// Where a payload names its facility.
    fn facility_path(&self) -> String {
        match &self.facility {
            Part::Object { entries, .. } => entries.iter().find(|(key, _)| key == "code").and_then(|(_, part)| match part {
                Part::Expr(expr) => expr.member(),
                _ => None,
            }),
            _ => None,
        }
        .unwrap_or_default()
    }

    #[allow(clippy::too_many_arguments)]
    fn record(
        &self,
        index: usize,
        value: Value,
        list: &str,
        facility: &Value,
        options: &Options<'_>,
        translate: &dyn Translate,
        shared: &mut Shared,
    ) -> Record {
        let path = format!("{list}[{index}]");
        let is_object = value.is_object();
        let mut walk = Walk::new(&self.schema, options.zone, options.strict_blocks, path.clone());
        let record = if is_object { walk.value(self.record, value, true).unwrap_or_default() } else { Value::Null };
        let mut issues = walk.issues;
        if !is_object {
            issues.push(Issue::error(IssueCode::Structure, "must be an object").at(path.clone()));
        } else if record.is_null() {
            issues.push(Issue::error(IssueCode::Structure, "is empty: it says nothing").at(path.clone()));
        }
        let scope = Scope::of(&record);
        let of_record = scope.var("record", &record);
        let scope = scope.within(&of_record);
        let of_facility = scope.var("facility", facility);
        let scope = scope.within(&of_facility);
        let mut run = Run::new(&self.schema, translate, options.stored, &record, &path);
        let client = run.one(&self.client, &scope).unwrap_or(Value::Array(Vec::new()));
        let of_client = scope.var("client", &client);
        let scope = scope.within(&of_client);
        for rule in self.rules.iter().filter(|_| is_object) {
            match rule.expression.truth(&scope) {
                // What the walk has already said of the same place need not be said twice.
                Ok(Some(false)) => {
                    let at = format!("{path}.{}", rule.path);
                    if !issues.iter().any(|issue| issue.severity.is_error() && issue.expression == at) {
                        let issue = if rule.error {
                            Issue::error(IssueCode::BusinessRule, &*rule.message)
                        } else {
                            Issue::warning(IssueCode::BusinessRule, &*rule.message)
                        };
                        issues.push(issue.at(at));
                    }
                }
                Ok(_) => {}
                Err(error) => issues.push(
                    Issue::warning(IssueCode::Processing, format!("the rule cannot be applied here: {error}"))
                        .at(format!("{path}.{}", rule.path)),
                ),
            }
        }
        let label = text(run.one(&self.label, &scope)).unwrap_or_else(|| path.clone());
        let visit_id = text(run.one(&self.visit, &scope));
        let identifiers = match run.one(&self.identifiers, &scope) {
            Some(Value::Array(list)) => {
                list.iter().filter_map(|entry| Some((text(entry.get("type").cloned())?, text(entry.get("value").cloned())?))).collect()
            }
            _ => Vec::new(),
        };
        if !options.judged {
            for issue in issues.iter_mut().filter(|issue| matches!(issue.code, IssueCode::Required | IssueCode::BusinessRule)) {
                issue.severity = Severity::Warning;
            }
        }
        let (mut errors, mut warnings): (Vec<_>, Vec<_>) = issues.into_iter().partition(|issue| issue.severity.is_error());
        let visit_key = self.visit_key.as_ref().and_then(|parts| run.key(&self.name, parts, &scope));
        if errors.is_empty() {
            run.carry_out(&self.mapping.record, &scope);
            warnings.append(&mut run.told);
            shared.wanted.append(&mut run.wanted);
            let faults = std::mem::take(&mut run.faults).into_iter().map(|issue| issue.at(path.clone()));
            // A record that no rule has judged may lack what its resources are known by: then nothing of it is stored.
            if options.judged {
                warnings.extend(faults)
            } else {
                errors.extend(faults.map(|issue| Issue { severity: Severity::Error, ..issue }))
            }
        }
        if !errors.is_empty() {
            let (verdict, lists, unmapped) = (Verdict::Rejected, Vec::new(), Vec::new());
            return Record { index, path, label, visit_id, visit_key, lists, identifiers, verdict, errors, warnings, unmapped };
        }
        let (common, resources) = run.produced.into_iter().partition(|produced| produced.shared);
        Vec::into_iter(common).for_each(|produced| shared.add(produced));
        let (verdict, lists, unmapped) = (Verdict::Accepted { resources }, run.lists, run.unmapped);
        Record { index, path, label, visit_id, visit_key, lists, identifiers, verdict, errors, warnings, unmapped }
    }
}

/// What the records have in common.
#[derive(Default)]
struct Shared {
    /// Resources of the submission, each id once.
    list: Vec<Produced>,
    places: HashMap<String, usize>,
    wanted: BTreeSet<String>,
}

impl Shared {
    fn add(&mut self, produced: Produced) {
        let id = text(produced.resource.get("id").cloned()).unwrap_or_default();
        match self.places.get(&id).and_then(|place| self.list.get_mut(*place)) {
            None => {
                self.places.insert(id, self.list.len());
                self.list.push(produced);
            }
            // Whoever knows more than an identifier speaks; two who do are laid over each other.
            Some(known) if produced.update != Update::IfAbsent => {
                let resource =
                    if known.update == Update::IfAbsent { produced.resource } else { merge(&known.resource, &produced.resource) };
                *known = Produced { resource, ..produced };
            }
            Some(_) => {}
        }
    }
}

fn parse(payload: &[u8]) -> Result<Value, EnvelopeError> {
    crate::fhir::json::parse(payload)
        .map_err(|error| refused("", IssueCode::Structure, &format!("the payload is no JSON that can be read: {error}")))
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
