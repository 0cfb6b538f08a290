//! What is read by name or from the past, and every projection of it.

use super::{Leaks, leak};
use crate::support::guarded::{Guarded, set};

leak!(
    async fn leak_01_reads(leaks: &Leaks) {
        for path in ["Observation/@", "Observation/@/_history/1", "Observation/@/_history", "Observation/@?_summary=true"] {
            for hidden in ["b-hr", "b-hiv", "a-hiv"] {
                let (status, headers, _) = leaks.same(path, hidden).await;
                assert_eq!(status, 404, "{path}");
                assert!(!headers.contains_key("etag") && !headers.contains_key("last-modified"), "{path}");
                let path = format!("/fhir/{path}");
                leaks.same_with("HEAD", &path, &[], "", hidden).await;
                leaks.same_with("GET", &path, &[("if-none-match", "W/\"1\"")], "", hidden).await;
                leaks.same_with("GET", &path, &[("if-modified-since", "Sat, 21 Nov 2099 04:36:13 GMT")], "", hidden).await;
            }
        }
        assert_eq!(leaks.told("Observation/a-hr").await.0, 200, "what is allowed is told");
    }
);

leak!(
    async fn leak_09_projections(leaks: &Leaks) {
        for path in ["Observation/@?_elements=code", "Observation?_id=@&_elements=code", "Observation?_id=@&_summary=text"] {
            leaks.same(path, "a-hiv").await;
        }
    }
);

leak!(
    async fn leak_10_compartments(leaks: &Leaks) {
        for path in ["Patient/@/Observation", "Patient/@/Encounter?_summary=count", "Patient/@/Condition?_total=accurate", "Patient/@/*"] {
            leaks.same(path, "b").await;
        }
        assert_eq!(leaks.ids("Patient/a/Observation").await, set(&["a-hr"]));
    }
);

leak!(
    async fn leak_11_everything_and_its_like(leaks: &Leaks) {
        for path in [
            "Patient/@/$everything",
            "Encounter/@/$everything",
            "Patient/@/$everything?_type=Observation&_count=1",
            "Patient/$everything",
            "Patient/@/$meta",
            "Observation/@-hr/$meta",
            "Observation/$lastn",
            "Composition/@/$document",
            "Patient/@/$summary",
            "Patient/@/$graph",
            "$graphql",
        ] {
            let (status, ..) = leaks.same(path, "b").await;
            assert!((400..500).contains(&status), "{path} is new: it needs its own test");
        }
        let all = leaks.world.ids_of_page(&leaks.asker, "/fhir/Patient/a/$everything?_type=Observation").await;
        assert_eq!(all.into_iter().filter(|id| id.starts_with("a-") || id.starts_with("b-")).collect::<Vec<_>>(), ["a-hr"]);
    }
);

leak!(
    async fn leak_12_histories(leaks: &Leaks) {
        for path in
            ["_history", "Observation/_history", "Encounter/_history", "Patient/_history", "_history?_since=2020", "_history?_at=2099"]
        {
            let (status, bundle) = leaks.told(&format!("{path}{}_count=1000", if path.contains('?') { '&' } else { '?' })).await;
            assert_eq!(status, 200, "{path}");
            for entry in bundle["entry"].as_array().into_iter().flatten() {
                let name = entry["request"]["url"].as_str().unwrap();
                let hidden = ["Patient/b", "Observation/b-hr", "Observation/b-hiv", "Encounter/b-visit", "Observation/a-hiv"];
                assert!(!hidden.contains(&name), "{path}: {name}");
            }
            assert!(bundle.get("total").is_none(), "{path}");
        }
    }
);

leak!(
    async fn leak_14_bulk_export(leaks: &Leaks) {
        for path in ["$export", "Patient/$export", "Group/@/$export", "$export-poll-status?job=@"] {
            let (status, ..) = leaks.same_with("GET", &format!("/fhir/{path}"), &[("prefer", "respond-async")], "", "b").await;
            assert!((400..500).contains(&status), "{path} is new: it needs its own test");
        }
    }
);

leak!(
    async fn leak_35_tricks_of_url_and_method(leaks: &Leaks) {
        for path in [
            "Observation?_id=a-hr,b-hr",
            "Observation?patient=a,b",
            "Observation?patient=a&patient=a",
            "Observation?patient=Patient/b,Patient/a",
        ] {
            assert_eq!(leaks.ids(path).await, set(&["a-hr"]), "{path}");
        }
        for path in [
            "/fhir/patient/@",
            "/fhir/Patient/@/",
            "/fhir//Patient/@",
            "/fhir/Patient%2F@",
            "/fhir/Patient/@;x=1",
            "/fhir/Patient/a,@",
            "/fhir/Patient/@?_format=html",
            "/fhir/Patient/@?_method=GET",
        ] {
            let (status, _, text) = leaks.same_with("GET", path, &[], "", "b").await;
            assert!(status >= 400 && !text.contains("family"), "{path}: {status}");
        }
        for header in ["x-http-method-override", "x-openhim-clientid", "x-forwarded-user", "x-lango-facility", "x-purpose-of-use"] {
            for value in ["HF-A", "DELETE", "TREAT"] {
                assert_eq!(leaks.same_with("GET", "/fhir/Patient/@", &[(header, value)], "", "b").await.0, 404);
            }
        }
        assert_eq!(leaks.get(&leaks.world.holder, "/fhir/Patient/b").await.0, 200, "nothing was deleted");
    }
);
