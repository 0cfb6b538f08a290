//! A `Consent` from JSON. What is not understood is kept as such, never passed over: see [`Truth`](super::Truth).

use super::facts::{coding, items, period};
use super::guardian::is_guardians;
use super::model::*;
use super::requester::{SOMEBODY, operators};
use super::vocabulary::{ACT_CODE, CONFIDENTIALITY, CONSENT_ACTION, Coding, Confidentiality, PARTICIPATION_TYPE, is_known_purpose};
use crate::definitions;
use crate::fhir::reference::{Reference, type_said};
use crate::fhir::series::{self, Place};
use crate::fhir::time::{Interval, Micros, parse_interval};
use jiff::tz::TimeZone;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// How deep provisions may nest; the root is 1.
pub const MAX_DEPTH: usize = 32;
/// How many provisions a consent may have.
pub const MAX_PROVISIONS: usize = 512;
/// How many values all its criteria may have, value sets expanded, counted once for each provision that inherits them.
pub const MAX_VALUES: usize = 50_000;

/// The system of [`ACT_CODE`] by its other name.
const ACT_CODE_OID: &str = "urn:oid:2.16.840.1.113883.5.4";

/// Why a consent cannot be read. It must not be stored; one that is stored all the same must close the patient's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsentError {
    #[error("not a Consent")]
    NotAConsent,
    #[error("Consent.provision is nested deeper than {MAX_DEPTH}")]
    TooDeep,
    #[error("Consent.provision has more than {MAX_PROVISIONS} provisions or more than {MAX_VALUES} values")]
    TooLarge,
}

/// What is needed to read a consent.
pub struct Reading<'a> {
    /// For dates without a zone.
    pub zone: &'a TimeZone,
    /// The server's own base URL, without a slash at the end: absolute references under it are local.
    pub base: &'a str,
    /// The members of a value set by its canonical URL; `None` when they cannot be listed.
    pub value_set: &'a dyn Fn(&str) -> Option<Vec<Coding>>,
    /// What the resource of this name (`Type/id`) refers to now; for `data.meaning` `related`. A permit reaches what it still refers to when it is asked,
    /// a deny that and what it refers to then.
    pub references_of: &'a dyn Fn(&str) -> Vec<Reached>,
    /// What else the one of this name is called; `None`: nobody knows whom the name means, so it might be anybody's.
    pub called: &'a dyn Fn(&Name) -> Option<Vec<Name>>,
    /// All names of the organisation that is called so; for which consent replaces which.
    pub organisation: &'a dyn Fn(Vec<Name>) -> BTreeSet<Name>,
    /// Where it stood by what it said before.
    pub former: &'a [Place],
    /// When what is read was recorded; now, if it is about to be.
    pub recorded: Micros,
    /// When the patient comes of age: a permit that a guardian gave before ends then ([`Consent::permits_until`]). `None`: nobody knows, and it permits nothing.
    pub of_age: Option<Micros>,
}

impl Consent {
    /// Reads a `Consent`. Anything that is no Consent or too large is refused; anything that is not understood closes.
    pub fn read(resource: &Value, reading: &Reading<'_>) -> Result<Consent, ConsentError> {
        let object = resource.as_object().ok_or(ConsentError::NotAConsent)?;
        let text = |key: &str| object.get(key).and_then(Value::as_str);
        if text("resourceType") != Some("Consent") {
            return Err(ConsentError::NotAConsent);
        }
        let meta = |key: &str| resource.pointer(&format!("/meta/{key}")).and_then(Value::as_str).unwrap_or_default();
        let read = |text: &str| parse_interval(text, reading.zone);
        // Nothing is given after it was recorded, whatever it says.
        let given = text("dateTime").and_then(read).map_or(reading.recorded, |given| given.low.min(reading.recorded));
        let guardian = is_guardians(resource, reading.base);
        let permits_until = match reading.of_age {
            Some(of_age) if guardian && given < of_age => of_age,
            // Whether it was given for a minor nobody can tell.
            None if guardian => Interval::MIN,
            _ => Interval::MAX,
        };
        let patient = object.get("patient").and_then(|patient| names_of(patient, reading.base).into_iter().next());
        let standing = match standing(object) {
            Standing::InForce if object.get("patient").is_none() => Standing::Void("it names no patient"),
            standing => standing,
        };
        let place = |patient: &Name| Place {
            subject: patient.clone(),
            organisations: organisations_of(resource, reading.base).into_iter().map(reading.organisation).collect(),
            policies: policies(object),
            // Without a date nobody can tell.
            given: text("dateTime").and_then(read).unwrap_or(ALWAYS),
            recorded: reading.recorded,
        };
        let takes = patient.as_ref().filter(|_| standing == Standing::InForce).map(place);
        let places = match &takes {
            _ if standing == Standing::Mistaken => Vec::new(),
            None => reading.former.to_vec(),
            Some(place) => series::after(reading.former.to_vec(), place.clone()),
        };
        Ok(Consent {
            version: ConsentVersion { id: text("id").unwrap_or_default().to_owned(), version: meta("versionId").to_owned() },
            standing,
            patient,
            takes,
            places,
            permits_until,
            provisions: provisions(object, reading)?,
        })
    }
}

/// Whether it says that it is in force, whomever it names.
pub fn is_in_force(resource: &Value) -> bool {
    resource.as_object().is_some_and(|object| standing(object) == Standing::InForce)
}

/// The names of each organisation that the `Consent` is given to, as it writes them; of one that it contains, its identifiers.
pub fn organisations_of(resource: &Value, base: &str) -> Vec<Vec<Name>> {
    let names = |organisation: &Value| {
        let contained = organisation.get("reference").and_then(Value::as_str).and_then(|reference| reference.strip_prefix('#'));
        let contained =
            items(resource.get("contained")).filter(|one| contained.is_some() && one.get("id").and_then(Value::as_str) == contained);
        let identifiers = contained.flat_map(|one| items(one.get("identifier"))).filter_map(name_of_identifier);
        names_of(organisation, base).into_iter().chain(identifiers).collect()
    };
    items(resource.get("organization")).map(names).collect()
}

/// Whether it counts, whomever it names.
fn standing(object: &Map<String, Value>) -> Standing {
    let scope = items(object.get("scope").and_then(|scope| scope.get("coding"))).filter_map(coding);
    let privacy = Coding::new("http://terminology.hl7.org/CodeSystem/consentscope", "patient-privacy");
    let unverified = items(object.get("verification")).any(|one| one.get("verified") != Some(&Value::Bool(true)));
    match object.get("status").and_then(Value::as_str) {
        Some("entered-in-error") => Standing::Mistaken,
        _ if !scope.into_iter().any(|one| one == privacy) => Standing::Void("its scope is not patient-privacy"),
        Some("active") if unverified => Standing::Void("its verification failed"),
        Some("active") => Standing::InForce,
        _ => Standing::Void("its status is not active"),
    }
}

/// The policies that a consent is given under, for which of two consents replaces the other: those that it names, else its rule. (A rule such as opt-in is
/// many a policy's.)
fn policies(object: &Map<String, Value>) -> BTreeSet<String> {
    let uris: BTreeSet<String> =
        items(object.get("policy")).filter_map(|policy| policy.get("uri").and_then(Value::as_str)).map(str::to_owned).collect();
    if !uris.is_empty() {
        return uris;
    }
    let rules = items(object.get("policyRule").and_then(|rule| rule.get("coding"))).filter_map(coding);
    let system = |rule: &Coding| if rule.system == ACT_CODE_OID { ACT_CODE.to_owned() } else { rule.system.clone() };
    rules.map(|rule| format!("{}|{}", system(&rule), rule.code)).collect()
}

/// Opt-in or opt-out, by `policyRule` (<http://terminology.hl7.org/CodeSystem/v3-ActCode>).
fn policy_rule(object: &Map<String, Value>) -> Option<Effect> {
    let mut codings = items(object.get("policyRule").and_then(|rule| rule.get("coding"))).filter_map(coding);
    codings.find_map(|rule| match rule.code.as_str() {
        _ if rule.system != ACT_CODE && rule.system != ACT_CODE_OID => None,
        "OPTIN" | "OPTINR" => Some(Effect::Permit),
        "OPTOUT" | "OPTOUTE" => Some(Effect::Deny),
        _ => None,
    })
}

/// The patient's rule, and the default behind it. In R4 the root has no type: the policy says it. IHE PCF gives it one.
fn provisions(object: &Map<String, Value>, reading: &Reading<'_>) -> Result<Vec<Provision>, ConsentError> {
    let default = policy_rule(object);
    let not_understood = object.contains_key("modifierExtension") || object.contains_key("implicitRules");
    let mut reader = Reader { reading, provisions: 0, values: 0 };
    let Some(root) = object.get("provision") else {
        let mut roots: Vec<Provision> = default.map(|effect| Provision::new(Precedence::of_default(effect))).into_iter().collect();
        roots.iter_mut().for_each(|root| root.unknown |= not_understood);
        return Ok(roots);
    };
    let said = effect(root.get("type"));
    let precedence = match (said, default) {
        (Some(said), _) => Precedence::of_rule(said),
        (None, _) if root.get("type").is_some() => Precedence::Deny,
        (None, Some(default)) => Precedence::of_default(default),
        // Nothing says what its rules are exceptions to: all but what they permit is closed. Without rules it says nothing.
        (None, None) if root.get("provision").is_some() => Precedence::Deny,
        (None, None) => return Ok(Vec::new()),
    };
    let mut root = reader.provision(root, precedence, 1, 0)?;
    root.unknown |= not_understood;
    let behind = default.filter(|_| matches!(root.precedence, Precedence::Deny | Precedence::Permit));
    let behind =
        behind.map(|effect| Provision { unknown: root.unknown, period: root.period, ..Provision::new(Precedence::of_default(effect)) });
    Ok([root].into_iter().chain(behind).collect())
}

fn effect(value: Option<&Value>) -> Option<Effect> {
    match value?.as_str()? {
        "permit" => Some(Effect::Permit),
        "deny" => Some(Effect::Deny),
        _ => None,
    }
}

struct Reader<'a> {
    reading: &'a Reading<'a>,
    provisions: usize,
    values: usize,
}

impl Reader<'_> {
    /// `inherited`: how many values the rules above have. Depth is bounded here.
    fn provision(&mut self, value: &Value, precedence: Precedence, depth: usize, inherited: usize) -> Result<Provision, ConsentError> {
        let mut provision = Provision::new(precedence);
        let Some(object) = value.as_object() else {
            return Ok(Provision { unknown: true, ..provision });
        };
        self.provisions += 1;
        if depth > MAX_DEPTH {
            return Err(ConsentError::TooDeep);
        }
        for (key, value) in object {
            match key.as_str() {
                "id" | "extension" | "type" | "provision" => {}
                "period" => match period(value, self.reading.zone).filter(|_| is_plain(value)) {
                    Some(period) => provision.period = period,
                    None => provision.unknown = true,
                },
                "dataPeriod" => match period(value, self.reading.zone).filter(|_| is_plain(value)) {
                    Some(period) => provision.data_period = Some(period),
                    None => provision.unknown = true,
                },
                "actor" => {
                    let mut actors = self.any_of(value, Self::actor);
                    actors.unknown |= !items(Some(value)).all(|actor| self.is_known(actor));
                    provision.actors = Some(actors);
                }
                "action" => provision.actions = Some(self.any_of(value, Self::action)),
                "purpose" => provision.purposes = Some(self.any_of(value, Self::purpose)),
                "class" => provision.classes = Some(self.any_of(value, Self::class)),
                "code" => provision.codes = Some(self.any_of(value, Self::concept)),
                "securityLabel" => provision.labels = Some(self.any_of(value, Self::label)),
                "data" => {
                    let mut data = self.any_of(value, Self::data);
                    let is_authors = |data: &Value| data.get("meaning").and_then(Value::as_str) == Some("authoredby");
                    data.unknown |= !items(Some(value)).all(|data| !is_authors(data) || self.is_known(data));
                    provision.data = Some(data);
                }
                // The sibling of a primitive holds extensions only.
                _ if key.starts_with('_') => {}
                _ => provision.unknown = true,
            }
        }
        let counts = [
            provision.actors.as_ref().map(|any| any.values.iter().map(|actor| actor.names.len() + actor.roles.len()).sum()),
            provision.actions.as_ref().map(|any| any.values.len()),
            provision.purposes.as_ref().map(|any| any.values.len()),
            provision.classes.as_ref().map(|any| any.values.len()),
            provision.codes.as_ref().map(|any| any.values.len()),
            provision.labels.as_ref().map(|any| any.values.len()),
            provision.data.as_ref().map(|any| any.values.iter().map(size_of_data).sum()),
        ];
        let inherited = inherited.saturating_add(counts.into_iter().flatten().sum::<usize>());
        self.values = self.values.saturating_add(inherited);
        if self.provisions > MAX_PROVISIONS || self.values > MAX_VALUES {
            return Err(ConsentError::TooLarge);
        }
        for exception in items(object.get("provision")) {
            // An exception must say what it is; one that does not closes.
            let effect = effect(exception.get("type")).unwrap_or(Effect::Deny);
            let exception = self.provision(exception, Precedence::of_rule(effect), depth + 1, inherited)?;
            provision.exceptions.push(exception);
        }
        Ok(provision)
    }

    fn any_of<T: Ord>(&self, value: &Value, read: impl Fn(&Self, &Value) -> Option<Vec<T>>) -> AnyOf<T> {
        let mut any = AnyOf { values: BTreeSet::new(), unknown: false };
        for item in items(Some(value)) {
            match read(self, item).filter(|values| !values.is_empty() && is_plain(item)) {
                Some(values) => any.values.extend(values),
                None => any.unknown = true,
            }
        }
        any.unknown |= any.values.is_empty();
        any
    }

    /// `role` says that the actor receives the data, or which role its holder has; any other part (custodian, author) is not understood.
    fn actor(&self, value: &Value) -> Option<Vec<Actor>> {
        let names = value.get("reference").map(|reference| names_of(reference, self.reading.base)).unwrap_or_default();
        if value.get("reference").is_some_and(|reference| self.contradicts_itself(reference, &names)) {
            return None;
        }
        let codings: Vec<Coding> = items(value.get("role").and_then(|role| role.get("coding"))).filter_map(coding).collect();
        let receives = codings.iter().any(|role| role.system == PARTICIPATION_TYPE && matches!(role.code.as_str(), "IRCP" | "PRCP"));
        let roles: BTreeSet<Coding> = codings.into_iter().filter(|role| role.system != PARTICIPATION_TYPE).collect();
        let mut aliases: BTreeSet<Name> = names.iter().filter_map(self.reading.called).flatten().collect();
        if names.iter().chain(&aliases).any(|name| is_a_persons(name)) {
            aliases.insert(SOMEBODY.to_owned());
        }
        // An id that nobody has is somebody else's tomorrow.
        let is_free = |name: &Name| !name.contains('|') && !is_elsewhere(name) && (self.reading.called)(name).is_none();
        aliases.extend(names.iter().filter(|name| is_free(name)).cloned());
        let meant = names.iter().map(|name| if is_free(name) { operators(name) } else { name.clone() }).collect();
        let actor = |roles| Actor { names: meant, aliases, roles };
        match (receives, value.get("reference").is_some(), names.is_empty()) {
            // A reference that cannot be read must not widen the rule to everybody.
            (_, true, true) => None,
            (true, _, false) => Some(vec![actor(BTreeSet::new())]),
            (false, ..) if !roles.is_empty() => Some(vec![actor(roles)]),
            _ => None,
        }
    }

    /// Whether a reference means two: it says another type than it names, or beside the name an identifier where the directory knows the one by others of that
    /// system.
    fn contradicts_itself(&self, reference: &Value, names: &[Name]) -> bool {
        let said = reference.get("type").and_then(Value::as_str).map(type_said);
        let Some((type_name, _)) = names.first().filter(|name| !is_elsewhere(name)).and_then(|name| name.split_once('/')) else {
            return false;
        };
        let folded = |name: &Name| name.split_once('|').map(|(system, value)| (system.to_owned(), value.trim().to_lowercase()));
        let identifier = names.get(1).and_then(folded);
        let known = names.first().and_then(|name| (self.reading.called)(name)).unwrap_or_default();
        let of_system: Vec<_> =
            known.iter().filter_map(folded).filter(|(system, _)| identifier.as_ref().is_some_and(|one| one.0 == *system)).collect();
        let is_another = identifier.is_some_and(|identifier| !of_system.is_empty() && !of_system.contains(&identifier));
        is_another || !type_name.contains('|') && said.is_some_and(|said| said != type_name)
    }

    /// Whether it is known whom the actor's reference means. Another server's names mean nobody here, and might be anybody's.
    fn is_known(&self, actor: &Value) -> bool {
        let names = actor.get("reference").map(|reference| names_of(reference, self.reading.base)).unwrap_or_default();
        names.is_empty() || names.iter().any(|name| !is_elsewhere(name) && (self.reading.called)(name).is_some())
    }

    fn action(&self, value: &Value) -> Option<Vec<Action>> {
        let actions = items(value.get("coding")).filter_map(coding).filter(|coding| coding.system == CONSENT_ACTION);
        let actions = actions.filter_map(|coding| match coding.code.as_str() {
            "collect" => Some(Action::Collect),
            "access" => Some(Action::Access),
            "use" => Some(Action::Use),
            "disclose" => Some(Action::Disclose),
            "correct" => Some(Action::Correct),
            _ => None,
        });
        Some(actions.collect())
    }

    fn purpose(&self, value: &Value) -> Option<Vec<Coding>> {
        coding(value).filter(is_known_purpose).map(|coding| vec![coding])
    }

    fn label(&self, value: &Value) -> Option<Vec<Coding>> {
        let label = coding(value)?;
        (label.system != CONFIDENTIALITY || Confidentiality::of(&label).is_some()).then(|| vec![label])
    }

    /// Resource types, profiles (`urn:ietf:rfc:3986` and a URL), and otherwise types of documents.
    fn class(&self, value: &Value) -> Option<Vec<Class>> {
        let code = value.get("code").and_then(Value::as_str)?;
        let system = value.get("system").and_then(Value::as_str);
        let class = match system {
            Some("http://hl7.org/fhir/resource-types" | "http://hl7.org/fhir/fhir-types" | "http://hl7.org/fhir/defined-types") | None => {
                definitions::r4().type_code(code)?;
                Class::Type(code.to_owned())
            }
            Some("urn:ietf:rfc:3986") => {
                let base = code.strip_prefix("http://hl7.org/fhir/StructureDefinition/");
                match base.filter(|name| definitions::r4().type_code(name).is_some()) {
                    Some(name) => Class::Type(name.to_owned()),
                    None => Class::Profile(code.split_once('|').map_or(code, |(url, _)| url).to_owned()),
                }
            }
            Some("urn:ietf:bcp:13") => return None,
            Some(_) => Class::Document(coding(value)?),
        };
        Some(vec![class])
    }

    /// A coding whose system is `urn:ietf:rfc:3986` names a value set.
    fn concept(&self, value: &Value) -> Option<Vec<Coding>> {
        let mut found = Vec::new();
        for coding in items(value.get("coding")).filter_map(coding) {
            if coding.system == "urn:ietf:rfc:3986" {
                found.extend((self.reading.value_set)(&coding.code)?);
            } else {
                found.push(coding);
            }
        }
        Some(found)
    }

    /// Which resource an identifier means cannot be told; of an author's every name counts.
    fn data(&self, value: &Value) -> Option<Vec<Data>> {
        let meaning = value.get("meaning").and_then(Value::as_str)?;
        let names = names_of(value.get("reference")?, self.reading.base);
        let is_one = |name: &Name| meaning == "authoredby" || !name.contains('|');
        let data = names.into_iter().filter(is_one).map(|name| match meaning {
            "instance" => Some(Data::Instance(name)),
            "related" => {
                let refers_to = (self.reading.references_of)(&name).into_iter().collect();
                Some(Data::Related(name, refers_to))
            }
            "dependents" => Some(Data::Dependents(name)),
            "authoredby" => Some(Data::AuthoredBy(name)),
            _ => None,
        });
        let mut data: Vec<Data> = data.collect::<Option<_>>()?;
        let authors = data.iter().filter_map(|one| if let Data::AuthoredBy(name) = one { (self.reading.called)(name) } else { None });
        let besides: Vec<Data> = authors.flatten().map(Data::PerhapsAuthoredBy).collect();
        data.extend(besides);
        Some(data)
    }
}

/// Whether the name may mean somebody who is not named when nobody says who acts.
fn is_a_persons(name: &str) -> bool {
    const TYPES: [&str; 5] = ["Practitioner/", "PractitionerRole/", "Person/", "CareTeam/", "Group/"];
    TYPES.iter().any(|type_name| name.starts_with(type_name))
}

/// An absolute URL of another server's, or a URN.
fn is_elsewhere(name: &str) -> bool {
    !name.contains('|') && (name.contains("://") || name.starts_with("urn:"))
}

fn size_of_data(data: &Data) -> usize {
    match data {
        Data::Related(_, refers_to) => refers_to.len().saturating_add(1),
        _ => 1,
    }
}

/// Whether no modifier changes what the element means.
fn is_plain(value: &Value) -> bool {
    value.get("modifierExtension").is_none()
}

/// How a `Reference` calls its target: `Type/id` without a version, an absolute URL as it is, `system|value` of its identifier; not a contained one.
pub fn names_of(reference: &Value, base: &str) -> Vec<Name> {
    let written = reference.get("reference").and_then(Value::as_str).and_then(|text| match Reference::parse_at(text, base)? {
        Reference::Local { type_name, id, .. } => Some(format!("{type_name}/{id}")),
        Reference::Absolute(url) => Some(url.to_owned()),
        Reference::Urn(urn) => Some(urn.to_owned()),
        Reference::Contained(_) | Reference::Conditional { .. } => None,
    });
    written.into_iter().chain(reference.get("identifier").and_then(name_of_identifier)).collect()
}

fn name_of_identifier(identifier: &Value) -> Option<Name> {
    let text = |key: &str| identifier.get(key).and_then(Value::as_str);
    text("system").zip(text("value")).map(|(system, value)| format!("{system}|{value}"))
}
