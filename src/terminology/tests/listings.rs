use super::listing::{self, Paging};
use super::*;

fn paging(pairs: &[(&str, &str)]) -> Paging {
    let fields: serde_json::Map<String, Value> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    serde_json::from_value(fields.into()).unwrap()
}

#[test]
fn icd_lists_have_a_level_a_search_and_a_pager() {
    let terminology = Terminology::with_shipped();
    let chapters = listing::icd(&terminology, "chapters", &paging(&[("pageSize", "100")])).unwrap();
    assert_eq!(chapters["pager"]["total"], json!(21));
    assert_eq!(chapters["results"][0]["parent"], Value::Null);
    let found = listing::icd(&terminology, "codes", &paging(&[("q", "falciparum unspecified")])).unwrap();
    assert_eq!(found["results"][0]["code"], json!("B50.9"));
    assert_eq!(found["results"][0]["parent"], json!("B50"));
    assert_eq!(found["pager"], json!({ "page": 1, "pageSize": 10, "total": 1, "totalPages": 1 }));
    for level in ["blocks", "categories"] {
        assert!(listing::icd(&terminology, level, &Paging::default()).unwrap()["pager"]["total"].as_u64().unwrap() > 50, "{level}");
    }
    assert!(listing::icd(&terminology, "kingdoms", &Paging::default()).is_none());
}

#[test]
fn an_icd_10_without_kinds_is_told_apart_by_the_form_of_its_codes() {
    let codes = ["II", "C00-D48", "C50", "C50.9"].map(|code| json!({ "code": code }));
    let terminology = holding(&[json!({ "resourceType": "CodeSystem", "id": "i", "url": ICD10, "content": "complete", "concept": codes })]);
    for (level, code) in [("chapters", "II"), ("blocks", "C00-D48"), ("categories", "C50"), ("codes", "C50.9")] {
        let list = listing::icd(&terminology, level, &Paging::default()).unwrap();
        assert_eq!((&list["pager"]["total"], &list["results"][0]["code"]), (&json!(1), &json!(code)));
    }
}

#[test]
fn pages_follow_each_other_and_end() {
    let terminology = Terminology::with_shipped();
    let list = |pairs: &[(&str, &str)]| listing::loinc(&terminology, &paging(pairs)).unwrap();
    let first = list(&[("pageSize", "2")]);
    assert_eq!(list(&[("pageSize", "4")])["results"][2], list(&[("pageSize", "2"), ("page", "2")])["results"][0]);
    for odd in ["0", "-1", "x", ""] {
        assert_eq!(list(&[("page", odd), ("pageSize", "2")])["results"], first["results"]);
    }
    assert_eq!(list(&[("page", &usize::MAX.to_string()), ("pageSize", "1000000")])["results"], json!([]));
    assert_eq!(listing::loinc(&Terminology::new(), &Paging::default()).unwrap()["pager"]["total"], json!(0));
}

#[test]
fn general_and_standard_codes_are_apart() {
    let terminology = Terminology::with_shipped();
    let names = |list: Option<Value>| {
        list.unwrap()["results"].as_array().unwrap().iter().map(|one| one["namespace"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let general = names(listing::general(&terminology, None, &paging(&[("pageSize", "1000")])));
    let standard = names(listing::standard(&terminology, None, &paging(&[("pageSize", "1000")])));
    assert!(general.contains(&"hdu-visit-type".to_owned()) && standard.contains(&"icd-10".to_owned()));
    assert!(general.iter().all(|name| !standard.contains(name)));
    let short = listing::general(&terminology, Some("visit-type"), &Paging::default());
    assert_eq!(short.as_ref().unwrap()["pager"]["total"], json!(3));
    assert_eq!(listing::general(&terminology, Some("hdu-visit-type"), &Paging::default()), short);
    assert!(listing::standard(&terminology, Some("icd-10"), &Paging::default()).is_some());
    assert!(listing::standard(&terminology, Some("hdu-visit-type"), &Paging::default()).is_none());
    assert!(listing::general(&terminology, Some("nothing"), &Paging::default()).is_none());
}
