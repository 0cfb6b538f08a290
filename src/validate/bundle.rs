//! What R4 asks of a Bundle's entries beyond its invariants (<https://hl7.org/fhir/R4/bundle.html>).

use super::compile::items;
use super::report::{Path, Report};
use crate::fhir::{IssueCode, Severity};
use serde_json::Value;
use std::collections::HashSet;

/// bdl-7, and that each fullUrl is the URL of its resource.
pub(super) fn check(bundle: &Value, path: &Path, report: &mut Report) {
    let text = |value: &'_ Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let kind = text(bundle, "/type").unwrap_or_default();
    // A batch or transaction may leave it out where the server gives the id.
    let wants_url = matches!(kind.as_str(), "document" | "message" | "collection" | "searchset" | "history");
    let mut seen: HashSet<(&str, &str)> = HashSet::new();
    let list = path.member("entry");
    for (at, entry) in items(bundle, "entry").iter().enumerate() {
        let here = list.item(at);
        let url_path = here.member("fullUrl");
        let resource = entry.get("resource");
        let Some(url) = entry.get("fullUrl").and_then(Value::as_str) else {
            if wants_url && resource.is_some() {
                report.add(Severity::Warning, IssueCode::Required, &url_path, || {
                    "should be given: without it, references within the Bundle lead nowhere".into()
                });
            }
            continue;
        };
        let version = resource.and_then(|resource| resource.pointer("/meta/versionId")).and_then(Value::as_str).unwrap_or_default();
        if kind != "history" && !seen.insert((url, version)) {
            report.error(IssueCode::Invariant, &url_path, || {
                "bdl-7: must be given once only; entries with one fullUrl need different versions".into()
            });
        }
        if !url.starts_with("http") && !url.starts_with("urn:") {
            report.error(IssueCode::Value, &url_path, || "must be an absolute URL, or urn:uuid: or urn:oid:".into());
        }
        let Some(resource) = resource.filter(|_| url.starts_with("http")) else { continue };
        let own = |key: &str| resource.get(key).and_then(Value::as_str);
        let mut parts = url.rsplit('/');
        if let (Some(id), Some(name), Some(own_name)) = (parts.next(), parts.next(), own("resourceType"))
            && crate::definitions::r4().type_code(name).is_some()
            && (name != own_name || own("id").is_some_and(|own| own != id))
        {
            report.error(IssueCode::Value, &url_path, || "must end in the type and id of its resource".into());
        }
    }
}
