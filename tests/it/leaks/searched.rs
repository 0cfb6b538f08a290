//! What is searched: matches, counts, orders, and what is only compared on the way.

use super::{Leaks, leak};
use crate::support::guarded::{Guarded, set};
use serde_json::{Value, json};

leak!(
    async fn leak_02_search_without_a_patient(leaks: &Leaks) {
        assert_eq!(leaks.ids("Observation?status=final").await, set(&["a-hr"]));
        assert_eq!(leaks.ids("Observation?code=75622-1,8867-4&_total=accurate").await, set(&["a-hr"]));
    }
);

leak!(
    async fn leak_03_totals(leaks: &Leaks) {
        for (path, total) in [
            ("Observation?_summary=count", 1),
            ("Observation?_count=0&_total=accurate", 1),
            ("Patient?_total=accurate", 1),
            ("Observation?code=75622-1&_summary=count", 0),
        ] {
            assert_eq!(leaks.told(path).await.1["total"], total, "{path}");
        }
    }
);

leak!(
    async fn leak_04_includes(leaks: &Leaks) {
        let mixed = json!({ "resourceType": "DiagnosticReport", "id": "mixed", "status": "final", "code": { "text": "x" },
            "subject": { "reference": "Patient/a" }, "encounter": { "reference": "Encounter/b-visit" },
            "result": [{ "reference": "Observation/b-hr" }, { "reference": "Observation/a-hr" }] });
        leaks.put(&leaks.world.holder, &mixed).await;
        // One that names a labelled result is as sensitive.
        let mut tells = mixed.clone();
        (tells["id"], tells["result"][0]["reference"]) = (json!("tells"), json!("Observation/a-hiv"));
        leaks.put(&leaks.world.holder, &tells).await;
        for (path, seen) in [
            ("DiagnosticReport?_id=mixed&_include=DiagnosticReport:encounter&_include:iterate=Encounter:subject", &["mixed"][..]),
            ("DiagnosticReport?_id=mixed&_include=DiagnosticReport:result", &["mixed", "a-hr"]),
            ("DiagnosticReport?_id=mixed&_include=*", &["mixed", "a", "a-hr"]),
            ("Observation?_id=b-hr,a-hiv&_revinclude=DiagnosticReport:result", &[]),
            ("Observation?_id=a-hr&_revinclude=DiagnosticReport:result", &["a-hr", "mixed"]),
            ("DiagnosticReport?_id=tells&_include=DiagnosticReport:result", &[]),
        ] {
            assert_eq!(leaks.ids(path).await, set(seen), "{path}");
        }
        assert_eq!(leaks.ids("DiagnosticReport?_id=mixed,tells&result.code=75622-1").await, set(&[]));
    }
);

leak!(
    async fn leak_05_chains(leaks: &Leaks) {
        for path in [
            "Observation?subject:Patient.family=mushi",
            "Observation?encounter.subject:Patient.family=mushi",
            "Observation?subject:Patient._id=a,b",
        ] {
            assert_eq!(leaks.ids(path).await, set(&["a-hr"]), "{path}");
        }
    }
);

leak!(
    async fn leak_06_reverse_chains(leaks: &Leaks) {
        let hidden = "Patient?_has:Observation:patient:code=75622-1";
        assert_eq!(leaks.ids(hidden).await, set(&[]), "not even of her own who consented to the rest");
        assert_eq!(leaks.ids("Patient?_has:Observation:patient:code=8867-4").await, set(&["a"]));
        assert_eq!(leaks.ids("Patient?_has:Encounter:patient:_has:Observation:encounter:code=75622-1").await, set(&[]));
    }
);

leak!(
    async fn leak_07_filters_composites_modifiers(leaks: &Leaks) {
        for path in [
            "Observation?_filter=code eq 75622-1 or status eq final",
            "Observation?value-string:contains=x",
            "Observation?_tag:missing=true",
            "Observation?code:not=nothing",
            "Observation?code-value-string=8867-4$x,75622-1$x",
        ] {
            let (status, bundle) = leaks.told(path).await;
            assert!(matches!(status, 200 | 400), "{path}");
            let entries = bundle.get("entry").unwrap_or(&Value::Null).to_string();
            assert!(!entries.contains("-hiv") && !entries.contains("b-hr"), "{path}: {entries}");
        }
    }
);

leak!(
    async fn leak_08_order_and_pages(leaks: &Leaks) {
        for path in ["Observation?_sort=date&_count=1", "Observation?_sort=-date&_count=1", "Observation?_sort=-code&_count=1"] {
            let (_, page) = leaks.told(path).await;
            let links = page["link"].as_array().unwrap();
            assert!(links.iter().all(|link| link["relation"] != "next"), "{path}: a page that holds all is the last");
        }
    }
);

leak!(
    async fn leak_20_matching(leaks: &Leaks) {
        for path in [
            "Patient/$match",
            "Patient/$ihe-pix?sourceIdentifier=@",
            "Patient?link=Patient/@",
            "Patient?identifier=@",
            "Patient?name=mushi&_id=@",
            "Patient?phonetic=mushi&_id=@",
            "Organization?_has:Patient:organization:_id=@",
        ] {
            leaks.same(path, "b").await;
        }
    }
);

leak!(
    async fn leak_21_existence_by_identifier(leaks: &Leaks) {
        for path in [
            "Patient/@",
            "Patient?_id=@",
            "Patient?identifier=@",
            "Observation?patient=@",
            "Observation?subject=Patient/@&_summary=count",
            "Encounter?_id=@-visit",
        ] {
            leaks.same(path, "b").await;
        }
    }
);

leak!(
    async fn leak_36_foreign_references_and_named_queries(leaks: &Leaks) {
        let absolute = format!("Observation?subject={}/Patient/@", leaks.server().url("/fhir"));
        for path in [
            absolute.as_str(),
            "Observation?_security:not=R&patient=@",
            "Observation?_list=@",
            "Observation?_profile=@",
            "Observation?subject=Patient/@/_history/1",
        ] {
            leaks.same(path, "b").await;
        }
        assert_eq!(leaks.ids("Observation?_security:not=R").await, set(&["a-hr"]));
        leaks.same("Observation?_query=all&_id=@", "b-hr").await;
        let (status, found) = leaks.told("?_type=Patient,Encounter").await;
        let entries = found.get("entry").unwrap_or(&Value::Null).to_string();
        assert!(status >= 400 || !entries.contains("b-visit") && !entries.contains("Patient/b"), "{entries}");
    }
);
