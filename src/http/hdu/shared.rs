//! `GET shr/sharedRecords`: what may be seen of clients' visits, in the template's words.
//!
//! The gate is that of `Patient/$record-lookup`, inside each query: a caller that signed no purpose, and so every one that logs in by HTTP Basic, sees
//! what its own facility sent. A page counts clients as facilities sent them; each comes with its latest visits. What was stored is turned
//! back into the template's main blocks: the client, the visit, vital signs, complaints, diagnoses, chronic conditions, allergies, medicines.

use super::HduError;
use crate::access::{Caller, Interaction, audit};
use crate::app::App;
use crate::definitions;
use crate::exchange::holders::{Record, disclose};
use crate::exchange::{Away, Person, Sought, Wanted};
use crate::fhir::time::parse_interval;
use crate::fhir::{Issue, IssueCode};
use crate::ingest::refusal::{Refusal, RefusalKind};
use crate::search::matches::satisfies;
use crate::search::{self, ParseOptions};
use crate::store::records::Records;
use crate::store::{Filter, ResourceKey, Stored};
use crate::terminology::listing::positive;
use axum::extract::{Extension, RawQuery, State};
use axum::response::{IntoResponse, Json, Response};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

const PATH: &str = "shr/sharedRecords";
const MOST_PAGE_SIZE: usize = 50;
/// How deep pages may go: whoever needs more narrows the question.
const MOST_DEPTH: usize = 1_000;
const MOST_VISITS: u32 = 20;
/// Resources of one kind in one page of clients.
const MOST_PARTS: u32 = 5_000;
const EXTENSION: &str = "https://lango.health/fhir/StructureDefinition/";
/// Types that a record is made of, each with the parameter that names the visit.
const PARTS: [&str; 4] = ["Observation", "Condition", "MedicationRequest", "AllergyIntolerance"];
/// Vital signs by LOINC code.
const VITALS: [(&str, &str); 5] =
    [("29463-7", "weight"), ("8310-5", "temperature"), ("8302-2", "height"), ("9279-1", "respiration"), ("8867-4", "pulseRate")];

/// What may be asked. `withReferral` is the original's, and changes nothing: referrals are not turned back.
const PARAMETERS: [&str; 13] = [
    "id",
    "idType",
    "hfrCode",
    "referralNumber",
    "firstName",
    "lastName",
    "gender",
    "dateOfBirth",
    "includeDeceased",
    "numberOfVisits",
    "withReferral",
    "page",
    "pageSize",
];

pub async fn answer(State(app): State<App>, Extension(caller): Extension<Caller>, RawQuery(query): RawQuery) -> Response {
    page(&app, &caller, &query.unwrap_or_default()).await.unwrap_or_else(|refusal| HduError::at(PATH)(refusal).into_response())
}

async fn page(app: &App, caller: &Caller, query: &str) -> Result<Response, Refusal> {
    for name in PARTS.iter().chain(&["Patient", "Encounter"]) {
        caller.require_all(name, Interaction::Search)?;
    }
    let mut given: HashMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    // Passed over, it would answer with other people's records.
    if given.keys().any(|name| !PARAMETERS.contains(&name.as_str())) {
        let words = format!("There is a parameter that is not known here: it takes {}.", PARAMETERS.join(", "));
        return Err(Refusal::malformed(words));
    }
    given.retain(|_, value| !value.trim().is_empty());
    let given = |name: &str| given.get(name).map(|value| value.trim());
    let number = |name: &'static str| positive(given(name).unwrap_or_default()).ok_or_else(|| super::no_number(name));
    let (page, page_size) = (number("page")?.unwrap_or(1), number("pageSize")?.unwrap_or(10).min(MOST_PAGE_SIZE));
    let visits = number("numberOfVisits")?.and_then(|number| u32::try_from(number).ok()).unwrap_or(1).min(MOST_VISITS);
    let first = (page - 1).saturating_mul(page_size);
    if first >= MOST_DEPTH {
        let words = format!("Pages go to client {MOST_DEPTH}: narrow the question by id, name or date of birth.");
        return Err(Refusal::new(RefusalKind::Malformed, Issue::error(IssueCode::TooCostly, words).at("page")));
    }
    if let Some(client) = &caller.client {
        let limits = &app.settings.limits;
        // Who names nobody is bounded as a client only.
        let (person, most) = match given("id") {
            Some(id) => (format!("{}|{id}", given("idType").unwrap_or_default()), limits.lookups_per_patient),
            None => (format!("whoever {client} may see"), u32::MAX),
        };
        if !app.lookups.allows(client, limits.lookups_per_client, &person, most) {
            let words = "So many lookups in a minute are more than the operator allows: come back when the minute is over.";
            return Err(Refusal::new(RefusalKind::Throttled, Issue::error(IssueCode::Throttled, words)));
        }
    }
    let facility = given("hfrCode");
    if given("referralNumber").is_some() && facility.is_none() {
        return Err(Refusal::malformed("referralNumber is a facility's own: give the facility's code in hfrCode too."));
    }
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut ask = |name: &str, value: String| pairs.push((name.to_owned(), value));
    let (mut away, mut of) = (Away::default(), Vec::new());
    if let Some(id) = given("id") {
        match identifier_system(given("idType").unwrap_or_default(), facility) {
            Some(system) => {
                let sought = Sought::Identifier { system, value: id.to_owned() };
                let person = Person::find(&app.registry, &app.store, &sought, &caller.scope).await.map_err(Refusal::internal)?;
                person.is_asked_for();
                let person = person.as_named();
                let owners = match facility {
                    Some(code) if *code == *app.settings.operator.code => Some(vec![0]),
                    Some(code) => Some(app.store.known_facility(code).await?.into_iter().collect()),
                    None => None,
                };
                let types = PARTS.iter().chain(&["Patient", "Encounter"]).filter_map(|name| definitions::r4().type_code(name)).collect();
                away = Away::ask(app, caller, &person, &Wanted { types, owners, since: None }, None).await?;
                of = person.keys;
                // No Patient has the id "-".
                let ids: Vec<String> = person.ids.into_iter().chain(["-".to_owned()]).collect();
                ask("_id", ids.join(","));
            }
            None => ask("identifier", search::escape(id)),
        }
    }
    for (name, param) in [("firstName", "given"), ("lastName", "family"), ("dateOfBirth", "birthdate")] {
        given(name).into_iter().for_each(|value| ask(param, search::escape(value)));
    }
    if let Some(gender) = given("gender") {
        ask("gender", gender_code(gender).to_owned());
    }
    if given("includeDeceased").is_none_or(|value| !value.eq_ignore_ascii_case("true")) && given("id").is_none() {
        ask("deceased:not", "true".to_owned());
    }
    if let Some(number) = given("referralNumber") {
        ask("_has:ServiceRequest:subject:identifier", search::escape(number));
    }
    let mut asked = parse(app, caller, "Patient", &pairs)?;
    asked.filters.extend(with_visits());
    let here = app.store.count(&asked, None).await?;
    let mut released = away.release(app, caller, None).await?;
    let shown = Records { of, params: Vec::new(), own: None, owners: None, since: None, during: None, scope: caller.scope.clone() };
    released.without(app, caller, &shown).await?;
    let held = HeldClient::all(&released.records, &parse(app, caller, "Patient", pairs.iter().filter(|(name, _)| name != "_id"))?.filters);
    let total = here.saturating_add(held.len() as u64);
    let limit = u32::try_from(first.saturating_add(page_size)).unwrap_or(u32::MAX);
    let clients: Vec<Stored> = app.store.search(&asked, limit, None).await?.rows.into_iter().skip(first).collect();
    let mut results = Vec::new();
    for client in &clients {
        let Some(patient) = body(client) else { continue };
        let latest = [("subject".to_owned(), format!("Patient/{}", client.id)), ("_sort".to_owned(), "-date".to_owned())];
        let encounters = app.store.search(&parse(app, caller, "Encounter", &latest)?, visits, None).await?.rows;
        show(std::slice::from_ref(client));
        show(&encounters);
        for encounter in &encounters {
            if facility.is_some() && facility != code_of(app, encounter).await?.as_deref() {
                continue;
            }
            results.push(record(app, caller, &patient, encounter).await?);
        }
    }
    // They come after those that are here.
    let skipped = first.saturating_sub(usize::try_from(here).unwrap_or(usize::MAX));
    for client in held.iter().skip(skipped).take(page_size.saturating_sub(clients.len())) {
        let code = app.store.facility_code(client.patient.owner).await?.unwrap_or_else(|| app.settings.operator.code.clone());
        results.extend(client.latest(app, visits).into_iter().map(|encounter| client.record(&code, encounter)));
    }
    let pages = total.div_ceil(page_size as u64);
    let pager = json!({ "page": page, "pageSize": page_size, "total": total, "totalPages": pages });
    let mut answer = json!({ "results": results, "pager": pager });
    if !released.missing.is_empty() {
        let mut missing = Vec::new();
        for (owner, gap) in &released.missing {
            let code = app.store.facility_code(*owner).await?.unwrap_or_else(|| app.settings.operator.code.clone());
            missing.push(json!({ "facilityCode": code, "reason": gap.code() }));
        }
        answer["missing"] = Value::Array(missing);
    }
    Ok(Json(answer).into_response())
}

fn parse<'p>(
    app: &App,
    caller: &Caller,
    type_name: &str,
    pairs: impl IntoIterator<Item = &'p (String, String)>,
) -> Result<crate::store::Query, Refusal> {
    let pairs: Vec<(String, String)> = pairs.into_iter().cloned().collect();
    let type_code = definitions::r4().type_code(type_name).ok_or_else(Refusal::not_found)?;
    let options = ParseOptions { strict: true, ..ParseOptions::new(&app.writer.options().base, app.zone.clone()) };
    let asked = search::parse(type_code, &pairs, caller.scope.clone(), &options);
    asked.map(|asked| asked.query).map_err(|issues| Refusal::all(RefusalKind::Malformed, issues))
}

/// The system of the identifiers of a type, as the template's mapping gives it.
fn identifier_system(kind: &str, facility: Option<&str>) -> Option<String> {
    match (kind.to_ascii_uppercase().as_str(), facility) {
        ("NIDA", _) => Some("https://lango.health/id/nida".to_owned()),
        ("HCR" | "HCRCODE" | "HCR_CODE" | "HCR-CODE", _) => Some("https://lango.health/id/hcr".to_owned()),
        ("MRN", Some(code)) => Some(format!("https://lango.health/id/facility/{}/mrn", code.replace(' ', "_"))),
        _ => None,
    }
}

/// Who has no visit that may be seen has no record to answer, and is not counted.
fn with_visits() -> Option<Filter> {
    let encounter = definitions::r4().type_code("Encounter")?;
    let subject = definitions::r4().param(encounter, "subject")?;
    Some(Filter::Has { source: encounter, param: subject.id, filters: Vec::new() })
}

/// For the record of who saw what.
fn show(rows: &[Stored]) {
    if let Some(trail) = audit::current() {
        trail.shows(rows.iter().map(|row| (row.type_code, row.id.clone())));
    }
}

fn gender_code(word: &str) -> &'static str {
    match word.chars().next().map(|first| first.to_ascii_lowercase()) {
        Some('m') => "male",
        Some('f') => "female",
        Some('o') => "other",
        _ => "unknown",
    }
}

async fn code_of(app: &App, stored: &Stored) -> Result<Option<String>, Refusal> {
    Ok(app.store.facility_code(stored.owner).await?)
}

/// One `listGrid` record: a visit and its client.
async fn record(app: &App, caller: &Caller, patient: &Value, encounter: &Stored) -> Result<Value, Refusal> {
    let r4 = definitions::r4();
    let mut parts = Parts::default();
    for name in PARTS {
        let Some(param) = r4.type_code(name).and_then(|type_code| r4.param(type_code, "encounter")) else { continue };
        let found = app.store.referring_to(&[encounter.key], &[param.id], &caller.scope, MOST_PARTS).await?;
        show(&found);
        parts.insert(name, found.iter().filter_map(body).collect());
    }
    let visit = body(encounter).unwrap_or_default();
    let code = code_of(app, encounter).await?.unwrap_or_else(|| app.settings.operator.code.clone());
    Ok(told(&code, patient, &visit, &parts))
}

/// What belongs to a visit, by type.
type Parts = HashMap<&'static str, Vec<Value>>;

/// A client whom a holder keeps to itself, with what it told of them.
struct HeldClient<'a> {
    patient: &'a Record,
    records: Vec<&'a Record>,
}

impl<'a> HeldClient<'a> {
    /// One for each Patient that a holder sent here, if what the holder calls them satisfies the filters.
    fn all(records: &[&'a Record], filters: &[Filter]) -> Vec<HeldClient<'a>> {
        let mut clients: Vec<HeldClient<'a>> = Vec::new();
        let mut places: HashMap<ResourceKey, usize> = HashMap::new();
        for patient in records.iter().filter(|record| type_name(record) == "Patient") {
            let fits = |filter| satisfies(filter, &patient.url, &patient.entries) == Some(true);
            if !places.contains_key(&patient.patient) && filters.iter().all(fits) {
                places.insert(patient.patient, clients.len());
                clients.push(HeldClient { patient, records: Vec::new() });
            }
        }
        for record in records {
            if let Some(client) = places.get(&record.patient).and_then(|place| clients.get_mut(*place)) {
                client.records.push(record);
            }
        }
        clients
    }

    /// The latest visits.
    fn latest(&self, app: &App, count: u32) -> Vec<&'a Record> {
        let mut visits: Vec<&Record> = self.records.iter().copied().filter(|record| type_name(record) == "Encounter").collect();
        let start = |record: &Record| text(&record.body, "/period/start").and_then(|text| parse_interval(text, &app.zone));
        visits.sort_by_key(|record| std::cmp::Reverse(start(record).map(|start| start.low)));
        visits.truncate(count as usize);
        visits
    }

    /// One `listGrid` record, and the note that it leaves.
    fn record(&self, code: &str, encounter: &'a Record) -> Value {
        let is_of = |record: &Record| {
            let reference = text(&record.body, "/encounter/reference").unwrap_or_default();
            !reference.is_empty() && (encounter.url == reference || encounter.url.ends_with(&format!("/{reference}")))
        };
        let mut parts = Parts::default();
        let mut shown = vec![self.patient, encounter];
        for name in PARTS {
            let found: Vec<&Record> = self.records.iter().copied().filter(|record| type_name(record) == name && is_of(record)).collect();
            parts.insert(name, found.iter().map(|record| record.body.clone()).collect());
            shown.extend(found);
        }
        disclose(shown);
        told(code, &self.patient.body, &encounter.body, &parts)
    }
}

fn type_name(record: &Record) -> &'static str {
    definitions::r4().type_name(record.type_code)
}

/// One `listGrid` record, from resources.
fn told(code: &str, patient: &Value, visit: &Value, parts: &Parts) -> Value {
    let of = |name: &str| parts.get(name).map(Vec::as_slice).unwrap_or_default();
    let mut record = Map::new();
    let mrn = list(patient, "identifier").iter().find(|one| text(one, "/type/coding/0/code") == Some("MR"));
    put(&mut record, "mrn", mrn.and_then(|one| one.get("value").cloned()));
    put(&mut record, "facilityDetails", Some(json!({ "code": code, "name": visit.pointer("/serviceProvider/display") })));
    put(&mut record, "demographicDetails", Some(demographics(patient)));
    put(&mut record, "visitDetails", Some(visit_details(visit)));
    let day = visit.pointer("/period/start").cloned();
    let complaints: Vec<Value> = list(visit, "reasonCode").iter().filter_map(|reason| reason.get("text").cloned()).collect();
    let notes = if complaints.is_empty() { json!([]) } else { json!([{ "date": day, "chiefComplains": complaints }]) };
    put(&mut record, "clinicalInformation", Some(json!({ "vitalSigns": vital_signs(of("Observation")), "visitNotes": notes })));
    let is_chronic = |condition: &&Value| has_category(condition, "chronic-condition");
    let conditions = of("Condition");
    let diagnoses: Vec<Value> = conditions.iter().filter(|one| !is_chronic(one)).map(diagnosis).collect();
    let chronic: Vec<Value> = conditions.iter().filter(is_chronic).map(long_lasting).collect();
    put(&mut record, "diagnosisDetails", Some(Value::Array(diagnoses)));
    put(&mut record, "chronicConditions", Some(Value::Array(chronic)));
    put(&mut record, "allergies", Some(of("AllergyIntolerance").iter().map(long_lasting).collect()));
    put(&mut record, "medicationDetails", Some(of("MedicationRequest").iter().map(medicine).collect()));
    let died = patient.get("deceasedDateTime").cloned();
    let alive = died.is_none() && patient.get("deceasedBoolean") != Some(&json!(true));
    let mut outcome = Map::from_iter([("isAlive".to_owned(), json!(alive))]);
    put(&mut outcome, "deathDate", died);
    put(&mut record, "outcomeDetails", Some(Value::Object(outcome)));
    Value::Object(record)
}

fn demographics(patient: &Value) -> Value {
    let at = |pointer: &str| patient.pointer(pointer).cloned();
    let mut told = Map::new();
    put(&mut told, "firstName", at("/name/0/given/0"));
    put(&mut told, "middleName", at("/name/0/given/1"));
    put(&mut told, "lastName", at("/name/0/family"));
    put(&mut told, "dateOfBirth", at("/birthDate"));
    let original = extension(list_owner(patient, "_gender"), "http://hl7.org/fhir/StructureDefinition/originalText", "valueString");
    let gender = match text(patient, "/gender") {
        Some("male") => Some(json!("Male")),
        Some("female") => Some(json!("Female")),
        other => original.or(other.map(|word| json!(word))),
    };
    put(&mut told, "gender", gender);
    put(&mut told, "maritalStatus", at("/maritalStatus/text").or(at("/maritalStatus/coding/0/code")));
    put(
        &mut told,
        "occupation",
        extension(patient, &format!("{EXTENSION}patient-occupation"), "valueCodeableConcept").and_then(|one| one.get("text").cloned()),
    );
    put(&mut told, "ethnicGroup", extension(patient, &format!("{EXTENSION}patient-ethnic-group"), "valueString"));
    let telecom = |system: &str| -> Value {
        let of_system = list(patient, "telecom").iter().filter(|one| text(one, "/system") == Some(system));
        of_system.filter_map(|one| one.get("value").cloned()).collect()
    };
    put(&mut told, "phoneNumbers", Some(telecom("phone")));
    put(&mut told, "emails", Some(telecom("email")));
    let identifiers = list(patient, "identifier").iter().map(|one| {
        let kind = text(one, "/type/text").or(match (text(one, "/type/coding/0/code"), text(one, "/system")) {
            (Some("MR"), _) => Some("MRN"),
            (_, Some("https://lango.health/id/nida")) => Some("NIDA"),
            (_, Some("https://lango.health/id/hcr")) => Some("HCRCODE"),
            (code, _) => code,
        });
        json!({ "id": one.get("value"), "type": kind, "system": one.get("system"), "preferred": text(one, "/use") == Some("usual") })
    });
    put(&mut told, "identifiers", Some(identifiers.collect()));
    let addresses = list(patient, "address").iter().map(|one| {
        let mut told = Map::new();
        let at = |pointer: &str| one.pointer(pointer).cloned();
        for (key, value) in [
            ("village", at("/line/0")),
            ("ward", at("/line/1")),
            ("district", at("/district")),
            ("region", at("/state")),
            ("country", at("/country")),
            ("category", at("/use").map(|code| json!(if code == "temp" { "Temporary" } else { "Permanent" }))),
        ] {
            put(&mut told, key, value);
        }
        Value::Object(told)
    });
    put(&mut told, "addresses", Some(addresses.collect()));
    Value::Object(told)
}

fn visit_details(visit: &Value) -> Value {
    let at = |pointer: &str| visit.pointer(pointer).cloned();
    let mut told = Map::new();
    put(&mut told, "id", at("/identifier/0/value"));
    put(&mut told, "visitDate", at("/period/start"));
    put(&mut told, "closedDate", at("/period/end"));
    let coded = |system: &str| {
        let codings = list(visit, "type").iter().flat_map(|kind| list(kind, "coding"));
        codings.filter(|coding| text(coding, "/system") == Some(system)).find_map(|coding| coding.get("code").cloned())
    };
    put(&mut told, "visitType", coded("https://lango.health/fhir/CodeSystem/hdu-visit-type"));
    for (key, name) in [("newThisYear", "new-this-year"), ("isNew", "new-visit"), ("referredIn", "referred-in"), ("disabled", "disabled")] {
        put(&mut told, key, extension(visit, &format!("{EXTENSION}encounter-{name}"), "valueBoolean"));
    }
    Value::Object(told)
}

/// One entry for each time at which something was measured.
fn vital_signs(observations: &[Value]) -> Value {
    let mut told: Vec<Map<String, Value>> = Vec::new();
    for one in observations.iter().filter(|one| has_category(one, "vital-signs")) {
        let codes: Vec<&str> = list_at(one, "/code/coding").iter().filter_map(|coding| text(coding, "/code")).collect();
        let component = |wanted: &str| {
            let of_code = |part: &&Value| list_at(part, "/code/coding").iter().any(|coding| text(coding, "/code") == Some(wanted));
            list(one, "component").iter().find(of_code)?.pointer("/valueQuantity/value").map(Value::to_string)
        };
        let (key, value) = if codes.contains(&"85354-9") {
            let parts = component("8480-6").zip(component("8462-4")).map(|(high, low)| json!(format!("{high}/{low}")));
            ("bloodPressure", parts.or(one.get("valueString").cloned()))
        } else if let Some((_, key)) = VITALS.iter().find(|(code, _)| codes.contains(code)) {
            (*key, one.pointer("/valueQuantity/value").cloned())
        } else {
            continue;
        };
        let when = one.get("effectiveDateTime").cloned().unwrap_or_default();
        let place = told.iter().position(|entry| entry.get("dateTime") == Some(&when)).unwrap_or_else(|| {
            told.push(Map::from_iter([("dateTime".to_owned(), when)]));
            told.len() - 1
        });
        if let Some(entry) = told.get_mut(place) {
            put(entry, key, value);
        }
    }
    told.into_iter().map(Value::Object).collect()
}

fn diagnosis(condition: &Value) -> Value {
    let at = |pointer: &str| condition.pointer(pointer).cloned();
    let mut told = Map::new();
    put(&mut told, "diagnosisDate", at("/recordedDate"));
    put(&mut told, "certainty", at("/verificationStatus/text").or(at("/verificationStatus/coding/0/code")));
    put(&mut told, "diagnosis", at("/code/text").or(at("/code/coding/0/display")));
    put(&mut told, "diagnosisCode", at("/code/coding/0/code"));
    put(&mut told, "diagnosisDescription", at("/note/0/text"));
    put(&mut told, "dateOfSymptomsOnset", at("/onsetDateTime"));
    Value::Object(told)
}

/// A chronic condition or an allergy.
fn long_lasting(resource: &Value) -> Value {
    let at = |pointer: &str| resource.pointer(pointer).cloned();
    let mut told = Map::new();
    put(&mut told, "code", at("/code/coding/0/code"));
    put(&mut told, "name", at("/code/text").or(at("/code/coding/0/display")));
    put(&mut told, "criticality", at("/criticality").or(at("/severity/text")));
    put(&mut told, "verificationStatus", at("/verificationStatus/text").or(at("/verificationStatus/coding/0/code")));
    let category = list(resource, "category").iter().find_map(|one| one.as_str().map(|word| json!(word)).or(one.get("text").cloned()));
    put(&mut told, "category", category);
    Value::Object(told)
}

fn medicine(request: &Value) -> Value {
    let at = |pointer: &str| request.pointer(pointer).cloned();
    let mut told = Map::new();
    put(&mut told, "orderDate", at("/authoredOn"));
    put(&mut told, "code", at("/medicationCodeableConcept/coding/0/code"));
    put(&mut told, "name", at("/medicationCodeableConcept/text"));
    put(&mut told, "treatmentType", at("/category/0/text"));
    Value::Object(told)
}

fn has_category(resource: &Value, code: &str) -> bool {
    let codings = list(resource, "category").iter().flat_map(|category| list(category, "coding"));
    codings.into_iter().any(|coding| text(coding, "/code") == Some(code))
}

fn extension(resource: &Value, url: &str, value: &str) -> Option<Value> {
    list(resource, "extension").iter().find(|one| text(one, "/url") == Some(url))?.get(value).cloned()
}

/// What stands under a key, or nothing.
fn list_owner<'v>(value: &'v Value, key: &str) -> &'v Value {
    value.get(key).unwrap_or(&Value::Null)
}

fn put(map: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value.filter(|value| !value.is_null()) {
        map.insert(key.to_owned(), value);
    }
}

fn body(stored: &Stored) -> Option<Value> {
    serde_json::from_slice(stored.body.as_ref()?).ok()
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn list_at<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
    value.pointer(pointer).and_then(Value::as_str)
}
