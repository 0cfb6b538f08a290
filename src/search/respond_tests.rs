use super::*;
use crate::fhir::time;
use crate::search::extract::{self, Options};
use crate::search::{ParseOptions, parse};
use crate::store::gate::{About, Traits};
use crate::store::write::Change;
use crate::store::{Mutation, Scope, Unit};
use jiff::tz::TimeZone;

#[derive(Debug)]
struct Everything;

impl Admits for Everything {
    fn admits(&self, _: &Stored) -> bool {
        true
    }
}

const BASE: &str = "http://localhost/fhir";

struct Server {
    store: Store,
    key: CursorKey,
    _folder: tempfile::TempDir,
}

impl Server {
    async fn with(resources: &[Value]) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("sqlite:{}", folder.path().join("lango.db").display())).await.unwrap();
        let server = Server { store, key: CursorKey::new(&[1; 32]), _folder: folder };
        server.put(resources).await;
        server
    }

    async fn put(&self, resources: &[Value]) {
        let options = Options { base: BASE.into(), zone: TimeZone::UTC, ..Options::default() };
        let mutations = resources.iter().map(|resource| {
            let type_code = definitions::r4().type_code(resource["resourceType"].as_str().unwrap()).unwrap();
            let mut stored = resource.clone();
            stored["meta"] = json!({"lastUpdated": format_instant(0), "versionId": "1"});
            let body = serde_json::to_vec(&stored).unwrap();
            let stamp = format_instant(0);
            let stamp_at = body.windows(27).position(|window| window == stamp.as_bytes()).unwrap();
            let change = Change::Put { body, stamp_at, entries: extract::extract(type_code, resource, &options), old_entries: Vec::new() };
            let id = resource["id"].as_str().unwrap().into();
            Mutation {
                type_code,
                id,
                base_version: 0,
                change,
                owner: 0,
                listed: true,
                about: About::Nobody,
                traits: Traits::default(),
                rules: None,
            }
        });
        self.store.commit(Unit { mutations: mutations.collect(), ..Unit::default() }).await.unwrap();
    }

    async fn try_get(&self, url: &str, now: Micros) -> Result<Value, SearchError> {
        let (type_name, query) = url.split_once('?').unwrap_or((url, ""));
        let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let options = ParseOptions::new(BASE, TimeZone::UTC);
        let type_code = definitions::r4().type_code(type_name).unwrap();
        let request = parse(type_code, &pairs, Scope::All, &options).unwrap_or_else(|issues| panic!("{url}: {issues:?}"));
        let bytes =
            run(&self.store, &request, RunContext { base_url: BASE, path: type_name, key: &self.key, admits: &Everything, now }).await?;
        Ok(crate::fhir::json::parse(&bytes).expect(url))
    }

    async fn get(&self, url: &str) -> Value {
        self.try_get(url, time::now()).await.unwrap()
    }
}

fn link<'a>(bundle: &'a Value, relation: &str) -> Option<&'a str> {
    let link = bundle["link"].as_array()?.iter().find(|link| link["relation"] == relation)?;
    link["url"].as_str()?.strip_prefix("http://localhost/fhir/")
}

/// `Type/id` of the entries of a mode, in their order.
fn entries(bundle: &Value, mode: &str) -> Vec<String> {
    let all = bundle["entry"].as_array().cloned().unwrap_or_default();
    let of_mode = all.iter().filter(|entry| entry["search"]["mode"] == mode);
    of_mode
        .map(|entry| format!("{}/{}", entry["resource"]["resourceType"].as_str().unwrap(), entry["resource"]["id"].as_str().unwrap_or("-")))
        .collect()
}

fn patient(id: &str, family: &str) -> Value {
    json!({"resourceType": "Patient", "id": id, "name": [{"family": family}], "gender": "female", "birthDate": "1990-05-01",
        "managingOrganization": {"reference": "Organization/o"}, "communication": [{"language": {"text": "Swahili"}}]})
}

fn observation(id: &str, patient: &str, value: &str) -> Value {
    let value: Value = serde_json::from_str(value).unwrap();
    json!({"resourceType": "Observation", "id": id, "status": "final", "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
        "subject": {"reference": format!("Patient/{patient}")}, "valueQuantity": {"value": value, "unit": "/min"}})
}

async fn clinic() -> Server {
    let organization = json!({"resourceType": "Organization", "id": "o", "name": "Clinic", "partOf": {"reference": "Organization/p"}});
    let parent = json!({"resourceType": "Organization", "id": "p", "name": "Council", "partOf": {"reference": "Organization/o"}});
    let (a, b) = (patient("a", "Massawe"), patient("b", "Éloi"));
    let observations = [observation("1", "a", "80.50"), observation("2", "a", "70"), observation("3", "b", "60")];
    Server::with(&[&[organization, parent, a, b][..], &observations].concat()).await
}

#[tokio::test]
async fn entries_are_the_stored_bytes_with_their_address() {
    let server = clinic().await;
    let bundle = server.get("Observation?value-quantity=80.5").await;
    assert_eq!((&bundle["resourceType"], &bundle["type"], &bundle["total"]), (&json!("Bundle"), &json!("searchset"), &json!(1)));
    assert_eq!(bundle["entry"][0]["fullUrl"], "http://localhost/fhir/Observation/1");
    assert_eq!(bundle["entry"][0]["resource"]["valueQuantity"]["value"].to_string(), "80.50");
    assert_eq!(link(&bundle, "self"), Some("Observation?value-quantity=80.5"));
    assert_eq!(link(&bundle, "next"), None);
    let nothing = server.get("Observation?value-quantity=82").await;
    assert_eq!((nothing.get("entry"), &nothing["total"]), (None, &json!(0)));
}

#[tokio::test]
async fn what_was_ignored_is_said_and_not_in_the_self_link() {
    let server = clinic().await;
    let bundle = server.get("Patient?familly=x&family=massawe").await;
    assert_eq!(entries(&bundle, "match"), ["Patient/a"]);
    let outcome = &bundle["entry"][1]["resource"];
    assert_eq!((&outcome["issue"][0]["severity"], &outcome["issue"][0]["expression"][0]), (&json!("warning"), &json!("Patient?familly")));
    assert_eq!(link(&bundle, "self"), Some("Patient?family=massawe"));
    assert_eq!(entries(&server.get("Patient?familly=x&family=nobody").await, "outcome"), ["OperationOutcome/-"]);
}

#[tokio::test]
async fn pages_follow_each_other_whatever_is_written_meanwhile() {
    let server = clinic().await;
    let (mut url, mut found, mut pages) = ("Observation?_sort=-value-quantity&_count=1&_total=accurate".to_owned(), Vec::new(), 0);
    loop {
        let bundle = server.get(&url).await;
        assert_eq!(bundle["total"], 3);
        assert_eq!(link(&bundle, "first").is_some(), pages > 0);
        found.extend(entries(&bundle, "match"));
        pages += 1;
        server.put(&[observation(&format!("late{pages}"), "a", "1")]).await;
        match link(&bundle, "next") {
            Some(next) => url = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(found, ["Observation/1", "Observation/2", "Observation/3"]);
}

#[tokio::test]
async fn a_token_of_another_search_or_of_yesterday_is_refused() {
    let server = clinic().await;
    let bundle = server.get("Observation?_count=1").await;
    assert_eq!(bundle.get("total"), None);
    let next = link(&bundle, "next").unwrap();
    let other = server.try_get(&format!("{next}&status=final"), time::now()).await.unwrap_err();
    assert_eq!(other.issue().map(|issue| issue.code), Some(IssueCode::Value));
    let late = server.try_get(next, time::now() + 2 * crate::search::cursor::LIFETIME).await.unwrap_err();
    assert_eq!(late.issue().map(|issue| issue.code), Some(IssueCode::Deleted));
    let larger = server.get(&next.replace("_count=1", "_count=2")).await;
    assert_eq!(entries(&larger, "match").len(), 2);
}

#[tokio::test]
async fn includes_come_once_and_iterate_ends_in_a_circle() {
    let server = clinic().await;
    let bundle = server.get("Observation?_include=Observation:subject&_include=Observation:patient").await;
    assert_eq!(entries(&bundle, "include"), ["Patient/a", "Patient/b"]);
    let bundle = server
        .get("Observation?_id=1&_include=Observation:subject&_include:iterate=Patient:organization&_include:iterate=Organization:partof")
        .await;
    assert_eq!(entries(&bundle, "include"), ["Patient/a", "Organization/o", "Organization/p"]);
    assert_eq!(bundle["total"], 1);
    let bundle = server.get("Patient?family=massawe&_revinclude=Observation:subject&_include=*").await;
    assert_eq!(entries(&bundle, "include"), ["Organization/o", "Observation/1", "Observation/2"]);
    assert_eq!(entries(&server.get("Patient?family=eloi&_revinclude=*").await, "include"), ["Observation/3"]);
    assert_eq!(entries(&server.get("Observation?_id=1&_include=Observation:subject:Group").await, "include"), [""; 0]);
}

#[tokio::test]
async fn includes_beyond_the_limit_are_left_out_with_a_word() {
    let many: Vec<Value> = (0..=include::MAX_INCLUDED).map(|n| observation(&format!("n{n}"), "a", "1")).collect();
    let server = Server::with(&[&[patient("a", "Massawe")][..], &many].concat()).await;
    let bundle = server.get("Patient?_revinclude=Observation:subject").await;
    assert_eq!(entries(&bundle, "include").len(), include::MAX_INCLUDED);
    assert_eq!(entries(&bundle, "outcome").len(), 1);
}

#[tokio::test]
async fn includes_that_take_too_many_steps_say_so() {
    let above = |n: usize| json!({"reference": format!("Organization/ch{}", n + 1)});
    let chain = (0..200).map(|n| json!({"resourceType": "Organization", "id": format!("ch{n}"), "partOf": above(n)}));
    let server = Server::with(&chain.collect::<Vec<_>>()).await;
    let told = |bundle: &Value| bundle["entry"].as_array().unwrap().last().unwrap()["resource"]["issue"][0]["diagnostics"].clone();
    let bundle = server.get("Organization?_id=ch0&_include:iterate=*").await;
    assert_eq!(entries(&bundle, "include").len(), 199);
    let bundle = server.get("Organization?_id=ch199&_revinclude:iterate=*").await;
    assert_eq!(entries(&bundle, "include").len(), 199, "all parameters that refer to an Organization are one step");
    let bundle = server.get(&format!("Organization?_id=ch199{}", "&_revinclude:iterate=*".repeat(14))).await;
    assert!((9..199).contains(&entries(&bundle, "include").len()));
    assert!(told(&bundle).as_str().unwrap().contains("steps"), "{}", told(&bundle));
}

#[tokio::test]
async fn summaries_and_elements_give_less_and_say_so() {
    let server = clinic().await;
    let count = server.get("Patient?_summary=count").await;
    assert_eq!((&count["total"], count.get("entry")), (&json!(2), None));
    assert_eq!(server.get("Patient?_count=0").await["total"], 2);
    let keys = |bundle: &Value| bundle["entry"][0]["resource"].as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    let elements = server.get("Patient?_id=a&_elements=birthDate&_include=Patient:organization").await;
    assert_eq!(keys(&elements), "resourceType id birthDate meta");
    assert_eq!(elements["entry"][0]["resource"]["meta"]["tag"][0]["code"], "SUBSETTED");
    assert_eq!(elements["entry"][1]["resource"]["name"], "Clinic");
    let summary = server.get("Patient?_id=a&_summary=true").await;
    assert_eq!(keys(&summary), "resourceType id name gender birthDate managingOrganization meta");
}

#[tokio::test]
async fn every_kind_of_parameter_finds_its_resource() {
    let server = clinic().await;
    let cases = [
        ("Patient?family=ELO", "Patient/b"),
        ("Patient?family:exact=Éloi", "Patient/b"),
        ("Patient?name:contains=loi", "Patient/b"),
        ("Patient?_id=a", "Patient/a"),
        ("Patient?gender=http://hl7.org/fhir/administrative-gender|female&family=eloi", "Patient/b"),
        ("Patient?_has:Observation:patient:value-quantity=gt65&gender=female", "Patient/a"),
        ("Patient?organization.name=clin&family=eloi", "Patient/b"),
        ("Patient?organization:Organization.partof.name=council&birthdate=1990&family:exact=Massawe", "Patient/a"),
        ("Observation?code-value-quantity=http://loinc.org|8867-4$lt65", "Observation/3"),
        ("Observation?subject=Patient/b", "Observation/3"),
        ("Observation?patient=b", "Observation/3"),
        ("Observation?subject:Patient=http://localhost/fhir/Patient/b", "Observation/3"),
        ("Observation?value-quantity=ap66||/min&value-quantity=ge61", "Observation/2"),
        ("Observation?patient.birthdate=lt1991&value-quantity=sa70", "Observation/1"),
    ];
    for (url, expected) in cases {
        assert_eq!(entries(&server.get(url).await, "match"), [expected], "{url}");
    }
    for url in [
        "Patient?gender:not=female",
        "Patient?gender:missing=true",
        "Patient?_lastUpdated=lt2020",
        "Patient?family:exact=eloi",
        "Patient?identifier=x|",
    ] {
        assert_eq!(entries(&server.get(url).await, "match"), [""; 0], "{url}");
    }
}
