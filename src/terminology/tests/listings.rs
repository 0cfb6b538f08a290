use super::listing::{IcdLevel, Page};
use super::*;

fn page(pairs: &[(&str, &str)]) -> Page {
    Page::from_query(pairs.iter().copied()).unwrap()
}

#[test]
fn icd_lists_have_a_level_a_search_and_a_pager() {
    let terminology = Terminology::with_shipped();
    let chapters = terminology.hdu_icd(Some(IcdLevel::Chapters), &page(&[("pageSize", "100")]));
    assert_eq!(chapters["pager"]["total"], json!(21));
    assert_eq!(chapters["results"][0]["parent"], Value::Null);
    let found = terminology.hdu_icd(Some(IcdLevel::Codes), &page(&[("q", "falciparum unspecified")]));
    assert_eq!(found["results"][0]["code"], json!("B50.9"));
    assert_eq!(found["results"][0]["parent"], json!("B50"));
    assert_eq!(found["pager"], json!({ "page": 1, "pageSize": 10, "total": 1, "totalPages": 1 }));
    let levels = [IcdLevel::Chapters, IcdLevel::Blocks, IcdLevel::Categories, IcdLevel::Codes];
    let total = |level| terminology.hdu_icd(level, &Page::default())["pager"]["total"].as_u64().unwrap();
    let in_all: Vec<u64> = levels.into_iter().map(|level| total(Some(level))).collect();
    assert!(in_all.iter().all(|some| *some > 0) && in_all[..3].iter().sum::<u64>() < total(None), "{in_all:?}");
    assert!(in_all.iter().sum::<u64>() > total(None), "categories that nothing divides are codes too");
    for code in ["B54", "I10"] {
        let found = terminology.hdu_icd(Some(IcdLevel::Codes), &page(&[("code", code)]));
        assert_eq!(found["results"][0]["code"], json!(code), "{found}");
    }
    let divided = terminology.hdu_icd(Some(IcdLevel::Codes), &page(&[("code", "B50")]));
    assert_eq!(divided["pager"]["total"], json!(0));
}

#[test]
fn pages_follow_each_other_and_end() {
    let terminology = Terminology::with_shipped();
    let first = terminology.hdu_loinc(&page(&[("pageSize", "2")]));
    let second = terminology.hdu_loinc(&page(&[("pageSize", "2"), ("page", "2")]));
    assert_ne!(first["results"][1], second["results"][0]);
    assert_eq!(terminology.hdu_loinc(&page(&[("page", ""), ("pageSize", "2")]))["results"], first["results"]);
    for odd in ["0", "-1", "x"] {
        assert_eq!(Page::from_query([("page", odd)]).unwrap_err(), "page");
        assert_eq!(Page::from_query([("pageSize", odd)]).unwrap_err(), "pageSize");
    }
    let beyond = terminology.hdu_loinc(&page(&[("page", &usize::MAX.to_string()), ("pageSize", "1000000")]));
    assert_eq!(beyond["results"], json!([]));
    assert_eq!(Terminology::new().hdu_loinc(&Page::default())["pager"]["total"], json!(0));
}

#[test]
fn general_and_standard_codes_are_apart() {
    let terminology = Terminology::with_shipped();
    let names = |list: Value| {
        list["results"].as_array().unwrap().iter().map(|one| one["namespace"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let general = names(terminology.hdu_general_namespaces(&page(&[("pageSize", "1000")])));
    let standard = names(terminology.hdu_standard_namespaces(&page(&[("pageSize", "1000")])));
    assert!(general.contains(&"hdu-visit-type".to_owned()) && standard.contains(&"icd-10".to_owned()));
    assert!(general.iter().all(|name| !standard.contains(name)));
    assert_eq!(terminology.hdu_general("visit-type", &Page::default()).unwrap()["pager"]["total"], json!(3));
    assert_eq!(terminology.hdu_general("hdu-visit-type", &Page::default()), terminology.hdu_general("visit-type", &Page::default()));
    assert!(terminology.hdu_standard("icd-10", &Page::default()).is_some());
    assert!(terminology.hdu_standard("hdu-visit-type", &Page::default()).is_none());
    assert!(terminology.hdu_general("nothing", &Page::default()).is_none());
}

#[test]
fn an_icd_10_without_kinds_is_told_apart_by_the_form_of_its_codes() {
    let mut codes = ["II", "C00-D48", "C50"].map(|code| json!({ "code": code }));
    codes[2]["concept"] = json!([{ "code": "C50.9" }]);
    let terminology = holding(&[json!({ "resourceType": "CodeSystem", "id": "i", "url": ICD10, "content": "complete", "concept": codes })]);
    for (level, code) in [("chapters", "II"), ("blocks", "C00-D48"), ("categories", "C50"), ("codes", "C50.9")] {
        let list = terminology.hdu_icd(IcdLevel::parse(level), &Page::default());
        assert_eq!((&list["pager"]["total"], &list["results"][0]["code"]), (&json!(1), &json!(code)));
    }
    assert!(IcdLevel::parse("kingdoms").is_none());
}
