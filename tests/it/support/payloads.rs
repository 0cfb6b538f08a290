//! Data Template payloads: made by the generator in `tests/tools`, or small ones written by hand.

use super::TestServer;
use super::server::answer;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

pub const DOOR: &str = "/api/v1/hduApi/dataTemplates";

/// (facility, ICD-10 category, age band, sex) and how many.
pub type Cells = BTreeMap<(String, String, String, String), u64>;

/// What the generator wrote for one seed.
pub struct Generated {
    /// In the order of their names.
    pub payloads: Vec<Value>,
    pub cells: Cells,
    /// (facility, number of the visit) and how the record was spoiled.
    pub spoiled: BTreeMap<(String, u64), String>,
    _folder: TempDir,
}

/// Runs the generator.
pub fn generate(seed: u32, people: u32, visits: u32, invalid: &str) -> Generated {
    let folder = TempDir::with_prefix("lango-payloads-").expect("the temporary folder can be written");
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/make_template_payloads.py");
    let made = Command::new("python3")
        .arg(tool)
        .arg("--out")
        .arg(folder.path())
        .args(["--seed", &seed.to_string(), "--people", &people.to_string(), "--visits", &visits.to_string(), "--invalid", invalid])
        .args(["--per-file", "60"])
        .output()
        .expect("Python 3 makes the payloads. Install it: apt-get install python3 (Debian, Ubuntu), dnf install python3 (Fedora), brew install python3 (macOS).");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "json") && !path.ends_with("expected-counts.json"));
    files.sort();
    let read = |path: &Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let expected = read(&folder.path().join("expected-counts.json"));
    let mut cells = Cells::new();
    for (cell, count) in expected["outpatient_diagnoses"].as_object().unwrap() {
        let [facility, _month, code, band, sex] = cell.split('|').collect::<Vec<_>>()[..] else { panic!("{cell}") };
        let category = code.split('.').next().unwrap();
        *cells.entry((facility.into(), category.into(), band.into(), sex.into())).or_default() += count.as_u64().unwrap();
    }
    let spoiled = expected["rejected"].as_array().unwrap().iter();
    let spoiled = spoiled.map(|one| ((text(&one["facility"]), one["visit"].as_u64().unwrap()), text(&one["why"]))).collect();
    Generated { payloads: files.iter().map(|path| read(path)).collect(), cells, spoiled, _folder: folder }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value}")).to_owned()
}

/// The same payloads, last first, and their records last first.
pub fn reversed(payloads: &[Value]) -> Vec<Value> {
    let turned = payloads.iter().rev().cloned().map(|mut payload| {
        payload["data"]["listGrid"].as_array_mut().unwrap().reverse();
        payload
    });
    turned.collect()
}

/// Posts a payload to the template door.
pub async fn send(server: &TestServer, payload: &Value) -> (u16, Value) {
    send_bytes(server, DOOR, payload.to_string().into_bytes()).await
}

pub async fn send_bytes(server: &TestServer, path: &str, payload: Vec<u8>) -> (u16, Value) {
    answer(server.client.post(server.url(path)).header("content-type", "application/json").body(payload)).await
}

/// The cells of the outpatient measure that are not zero.
pub async fn measured(server: &TestServer) -> Cells {
    let path = "/fhir/Measure/opd-diagnoses/$evaluate-measure?periodStart=2026-09&periodEnd=2026-09";
    let (status, body) = answer(server.client.post(server.url(path))).await;
    assert_eq!(status, 200, "{body}");
    let single = [json!({ "resource": body })];
    let reports = match body["resourceType"].as_str() {
        Some("Bundle") => body["entry"].as_array().map(Vec::as_slice).unwrap_or_default(),
        _ => &single,
    };
    let mut cells = Cells::new();
    for report in reports.iter().map(|entry| &entry["resource"]) {
        let facility = text(&report["reporter"]["identifier"]["value"]);
        for group in report["group"].as_array().unwrap() {
            let category = text(&group["code"]["coding"][0]["code"]);
            for stratum in group["stratifier"].as_array().unwrap().iter().flat_map(|one| one["stratum"].as_array().unwrap()) {
                let count = stratum["measureScore"]["value"].as_u64().unwrap_or_else(|| panic!("{stratum}"));
                let of: Vec<String> =
                    stratum["component"].as_array().unwrap().iter().map(|c| text(&c["value"]["coding"][0]["code"])).collect();
                let is_sex = |value: &&String| matches!(value.as_str(), "female" | "male");
                let (Some(sex), Some(band)) = (of.iter().find(is_sex), of.iter().find(|value| !is_sex(value))) else { continue };
                if count > 0 {
                    *cells.entry((facility.clone(), category.clone(), band.clone(), sex.clone())).or_default() += count;
                }
            }
        }
    }
    cells
}

/// How many resources a search finds.
pub async fn total(server: &TestServer, search: &str) -> u64 {
    let separator = if search.contains('?') { '&' } else { '?' };
    let (status, body) = server.get(&format!("/fhir/{search}{separator}_summary=count")).await;
    assert_eq!(status, 200, "{search}: {body}");
    body["total"].as_u64().unwrap_or_else(|| panic!("{search}: {body}"))
}

/// How many resources there are of every type that has any.
pub async fn totals(server: &TestServer) -> BTreeMap<String, u64> {
    let (_, capability) = server.get("/fhir/metadata").await;
    let mut found = BTreeMap::new();
    for resource in capability["rest"][0]["resource"].as_array().unwrap() {
        let name = text(&resource["type"]);
        let count = total(server, &name).await;
        if count > 0 {
            found.insert(name, count);
        }
    }
    found
}

/// A payload of one facility.
pub fn payload(facility: &str, records: Vec<Value>) -> Value {
    json!({
        "templateDetails": { "code": "GENERAL", "id": "general", "name": "General" },
        "data": {
            "facilityDetails": { "code": facility, "name": format!("Facility {facility}") },
            "listGrid": records,
            "reportDetails": { "reportingDateTime": "2026-09-30T18:00:00Z" },
        },
    })
}

/// A record of one visit that breaks no rule and causes no warning.
pub fn record(mrn: &str, visit: &str) -> Value {
    json!({
        "mrn": mrn,
        "demographicDetails": {
            "mrn": mrn, "firstName": "Neema", "lastName": "Massawe", "dateOfBirth": "1994-03-22", "gender": "female",
            "identifiers": [{ "type": "MRN", "id": mrn, "preferred": true }],
        },
        "visitDetails": { "id": visit, "visitDate": "2026-09-07", "closedDate": "2026-09-07", "visitType": "OPD" },
        "diagnosisDetails": [{ "diagnosisDate": "2026-09-07", "certainty": "CONFIRMED", "diagnosis": "Malaria", "diagnosisCode": "B54" }],
        "outcomeDetails": { "isAlive": true },
    })
}

/// The same, with a national id.
pub fn record_with_nida(mrn: &str, visit: &str, nida: &str) -> Value {
    let mut record = record(mrn, visit);
    let identifiers = record["demographicDetails"]["identifiers"].as_array_mut().unwrap();
    identifiers.push(json!({ "type": "NIDA", "id": nida, "preferred": false }));
    record
}
