//! Searches by what a value means rather than by its letters: canonicals, media types, spellings, units and words.

use crate::search_oracle::Chance;
use crate::support::{TestServer, add_client, both_databases};
use serde_json::{Value, json};
use std::collections::BTreeSet;

async fn put(server: &TestServer, resource: Value) {
    let path = format!("/fhir/{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
    let (status, outcome) = server.put(&path, &resource).await;
    assert!(status == 200 || status == 201, "{status} {outcome}");
}

/// `Type/id` of each entry, with a star behind what is included; the status of what was refused.
async fn found(server: &TestServer, search: &str) -> Vec<String> {
    let (path, query) = search.split_once('?').unwrap();
    let pairs: Vec<(&str, &str)> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let mut url = reqwest::Url::parse(&server.url(&format!("/fhir/{path}"))).unwrap();
    url.query_pairs_mut().extend_pairs(pairs);
    let response = server.client.get(url).send().await.unwrap();
    let status = response.status().as_u16();
    let bundle: Value = response.json().await.unwrap();
    if status != 200 {
        return vec![status.to_string()];
    }
    names(&bundle)
}

fn names(bundle: &Value) -> Vec<String> {
    let name = |entry: &Value| {
        let (resource, mode) = (&entry["resource"], entry["search"]["mode"].as_str().unwrap());
        let (type_name, id) = (resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap_or("-"));
        format!("{type_name}/{id}{}", if mode == "match" { "" } else { "*" })
    };
    bundle["entry"].as_array().map_or(&[][..], Vec::as_slice).iter().map(name).collect()
}

async fn expect(server: &TestServer, cases: &[(&str, &[&str])]) {
    for (search, expected) in cases {
        assert_eq!(found(server, search).await, *expected, "{search}");
    }
}

const FORM: &str = "http://x.org/Questionnaire/form";

fn form(id: &str, version: &str, status: &str) -> Value {
    json!({ "resourceType": "Questionnaire", "id": id, "url": FORM, "version": version, "status": status })
}

fn response(id: &str, questionnaire: &str) -> Value {
    json!({ "resourceType": "QuestionnaireResponse", "id": id, "status": "completed", "questionnaire": questionnaire })
}

const MEASURE: &str = "http://x.org/Measure/m";

fn measured(id: &str, version: &str, status: &str) -> Value {
    let base = json!([{ "type": "derived-from", "resource": format!("{MEASURE}-base") }]);
    json!({ "resourceType": "Measure", "id": id, "url": MEASURE, "version": version, "status": status, "relatedArtifact": base })
}

fn report(id: &str, measure: &str) -> Value {
    json!({ "resourceType": "MeasureReport", "id": id, "status": "complete", "type": "summary", "measure": measure, "period": { "start": "2026" } })
}

both_databases!(
    async fn canonicals_are_followed_like_references(db: &TestDb) {
        let server = TestServer::open(db).await;
        // What names may be there before what is named.
        put(&server, report("any", MEASURE)).await;
        put(&server, report("two", &format!("{MEASURE}|2-RC"))).await;
        put(&server, report("three", &format!("{MEASURE}|3"))).await;
        put(&server, report("other", "http://x.org/Measure/m2")).await;
        put(&server, measured("f1", "1", "retired")).await;
        put(&server, measured("f2", "2-RC", "active")).await;
        put(&server, json!({ "resourceType": "Measure", "id": "base", "url": format!("{MEASURE}-base"), "status": "draft" })).await;
        expect(
            &server,
            &[
                ("MeasureReport?measure.status=active", &["MeasureReport/any", "MeasureReport/two"]),
                ("MeasureReport?measure:Measure.status=retired", &["MeasureReport/any"]),
                ("MeasureReport?measure.status=active&status=complete&_id=two", &["MeasureReport/two"]),
                ("MeasureReport?measure.status=draft", &[]),
                ("MeasureReport?measure.derived-from.status=draft&_sort=_id", &["MeasureReport/any", "MeasureReport/two"]),
                ("Measure?_has:MeasureReport:measure:_id=two", &["Measure/f2"]),
                ("Measure?_has:MeasureReport:measure:_id=any", &["Measure/f1", "Measure/f2"]),
                ("Measure?_has:MeasureReport:measure:_id=three", &[]),
                ("Measure?_has:Measure:derived-from:_has:MeasureReport:measure:_id=two", &["Measure/base"]),
                ("MeasureReport?_id=two&_include=MeasureReport:measure", &["MeasureReport/two", "Measure/f2*"]),
                (
                    "MeasureReport?_id=any&_include=MeasureReport:measure:Measure&_include:iterate=Measure:derived-from",
                    &["MeasureReport/any", "Measure/f1*", "Measure/f2*", "Measure/base*"],
                ),
                ("MeasureReport?_id=three&_include=*", &["MeasureReport/three"]),
                ("Measure?_id=f1&_revinclude=MeasureReport:measure", &["Measure/f1", "MeasureReport/any*"]),
                ("Measure?_id=f2&_revinclude=*", &["Measure/f2", "MeasureReport/any*", "MeasureReport/two*"]),
                (
                    "Measure?_id=base&_revinclude:iterate=Measure:derived-from&_revinclude:iterate=MeasureReport:measure",
                    &["Measure/base", "Measure/f1*", "Measure/f2*", "MeasureReport/any*", "MeasureReport/two*"],
                ),
            ],
        )
        .await;
        let (_, total) = server.get("/fhir/MeasureReport?measure.status=active&_summary=count").await;
        assert_eq!(total["total"], 2);
        // A new version is another address.
        put(&server, measured("f2", "3", "active")).await;
        expect(&server, &[("MeasureReport?measure.status=active", &["MeasureReport/any", "MeasureReport/three"])]).await;
        server.stop().await;
    }
);

both_databases!(
    async fn a_canonical_with_a_fragment_names_what_it_names_without(db: &TestDb) {
        let server = TestServer::open(db).await;
        put(&server, form("f", "1", "active")).await;
        for (id, fragment) in [("plain", ""), ("part", "#x"), ("version", "|1#x"), ("other", "|2#x")] {
            put(&server, response(id, &format!("{FORM}{fragment}"))).await;
        }
        let name = |id: &&str| format!("QuestionnaireResponse/{id}");
        for (search, ids) in [
            (format!("questionnaire={FORM}"), &["plain", "part", "version", "other"][..]),
            (format!("questionnaire={FORM}|1"), &["version"]),
            (format!("questionnaire={FORM}#x"), &["part"]),
            (format!("questionnaire={FORM}|1#x"), &["version"]),
            (format!("questionnaire:below={FORM}|1"), &["version"]),
            ("questionnaire.status=active".to_owned(), &["plain", "part", "version"]),
            (format!("_filter=questionnaire ne {FORM}|1"), &["plain", "part", "other"]),
            (format!("_filter=questionnaire ne {FORM}"), &[]),
        ] {
            let expected: Vec<String> = ids.iter().map(name).collect();
            assert_eq!(found(&server, &format!("QuestionnaireResponse?{search}")).await, expected, "{search}");
        }
        expect(
            &server,
            &[
                ("Questionnaire?_has:QuestionnaireResponse:questionnaire:_id=part", &["Questionnaire/f"]),
                (
                    "Questionnaire?_id=f&_revinclude=QuestionnaireResponse:questionnaire",
                    &["Questionnaire/f", "QuestionnaireResponse/plain*", "QuestionnaireResponse/part*", "QuestionnaireResponse/version*"],
                ),
                (
                    "QuestionnaireResponse?_id=version&_include=QuestionnaireResponse:questionnaire",
                    &["QuestionnaireResponse/version", "Questionnaire/f*"],
                ),
                (&format!("QuestionnaireResponse?_filter=questionnaire ne {FORM}#x"), &["400"]),
            ],
        )
        .await;
        server.stop().await;
    }
);

both_databases!(
    async fn what_refers_elsewhere_refers_to_another(db: &TestDb) {
        let server = TestServer::open(db).await;
        for (id, subject) in [("here", "Patient/1"), ("other", "Patient/2"), ("there", "http://there.example/Patient/1")] {
            let observation = json!({ "resourceType": "Observation", "id": id, "status": "final", "code": { "text": "x" },
                "subject": { "reference": subject } });
            put(&server, observation).await;
        }
        expect(
            &server,
            &[
                ("Observation?_filter=subject ne Patient/1", &["Observation/other", "Observation/there"]),
                ("Observation?_filter=subject ne http://there.example/Patient/1", &["Observation/here", "Observation/other"]),
            ],
        )
        .await;
        server.stop().await;
    }
);

both_databases!(
    async fn what_is_hidden_is_not_found_by_the_form_that_it_answers(db: &TestDb) {
        let mut secrets = Vec::new();
        for (client, facility, scopes) in
            [("one", "HF-1", "system/*.cruds"), ("two", "HF-2", "system/*.cruds"), ("forms", "HF-1", "system/Questionnaire.rs")]
        {
            secrets.push((client, add_client(db, client, facility, scopes).await));
        }
        let server = TestServer::smart(db).await;
        let mut tokens = Vec::new();
        for (client, secret) in &secrets {
            tokens.push(server.token(client, secret).await);
        }
        for resource in [form("f1", "1", "active"), response("secret", FORM)] {
            let path = format!("/fhir/{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
            let request = server.client.put(server.url(&path)).bearer_auth(&tokens[0]).header("content-type", "application/fhir+json");
            assert_eq!(request.body(resource.to_string()).send().await.unwrap().status(), 201);
        }
        let get = async |token: &str, path: &str| {
            let request = server.client.get(server.url(&format!("/fhir/{path}"))).bearer_auth(token);
            let response = request.send().await.unwrap();
            let status = response.status().as_u16();
            (status, names(&response.json().await.unwrap()))
        };
        let has = "Questionnaire?_has:QuestionnaireResponse:questionnaire:status=completed";
        let along = "Questionnaire?_id=f1&_revinclude=QuestionnaireResponse:questionnaire";
        let chain = "QuestionnaireResponse?questionnaire.status=active";
        assert_eq!(get(&tokens[0], has).await, (200, vec!["Questionnaire/f1".to_owned()]));
        assert_eq!(get(&tokens[0], chain).await, (200, vec!["QuestionnaireResponse/secret".to_owned()]));
        assert_eq!(get(&tokens[0], along).await.1.len(), 2);
        assert_eq!(get(&tokens[1], has).await, (200, vec![]));
        assert_eq!(get(&tokens[1], chain).await, (200, vec![]));
        assert_eq!(get(&tokens[1], along).await, (200, vec!["Questionnaire/f1".to_owned()]));
        // The scopes do not reach what names the form, though it is the facility's own.
        assert_eq!(get(&tokens[2], has).await.0, 403);
        assert_eq!(get(&tokens[2], along).await.1, ["Questionnaire/f1"]);
        server.stop().await;
    }
);

both_databases!(
    async fn media_types_are_found_by_their_beginnings(db: &TestDb) {
        let server = TestServer::open(db).await;
        let types = ["text/xml; charset=UTF-8", "text/xml", "text/xml;charset=UTF-8", "text/xmlish", "text/plain", "image/png"];
        for (n, media) in types.iter().enumerate() {
            let content = json!([{ "attachment": { "contentType": media, "url": "http://x.org/1" } }]);
            put(&server, json!({ "resourceType": "DocumentReference", "id": format!("d{n}"), "status": "current", "content": content }))
                .await;
        }
        let named = |numbers: &[usize]| numbers.iter().map(|n| format!("DocumentReference/d{n}")).collect::<Vec<_>>();
        for (search, expected) in [
            ("contenttype:below=text/xml", &[0, 1, 2][..]),
            ("contenttype:below=TEXT", &[0, 1, 2, 3, 4]),
            ("contenttype:below=text/", &[0, 1, 2, 3, 4]),
            ("contenttype:below=image,text/plain", &[4, 5]),
            ("contenttype:below=urn:ietf:bcp:13|image", &[5]),
            ("contenttype:below=tex", &[]),
            ("contenttype:below=text/xml&status=current&contenttype=text/xml", &[1]),
            ("contenttype:above=text/xml;charset=utf-8", &[0, 1, 2]),
            ("contenttype:below=text/xml; charset=UTF-8", &[0, 2]),
            ("contenttype=text/xml; charset=UTF-8", &[0, 2]),
            ("contenttype=Text/XML", &[1]),
            ("contenttype=urn:ietf:bcp:13|text/xml", &[1]),
        ] {
            assert_eq!(found(&server, &format!("DocumentReference?{search}&_sort=_id")).await, named(expected), "{search}");
        }
        expect(&server, &[("DocumentReference?contenttype:below=urn:x|text", &[]), ("DocumentReference?contenttype:below=/", &["400"])])
            .await;
        server.stop().await;
    }
);

both_databases!(
    async fn tokens_are_found_whatever_their_case_where_case_says_nothing(db: &TestDb) {
        let server = TestServer::open(db).await;
        let observation = |id: &str, code: &str| json!({ "resourceType": "Observation", "id": id, "status": "final", "code": { "coding": [{ "system": "http://x.org/cs", "code": code }] } });
        for (id, code) in [("o1", "abc"), ("o2", "AbC"), ("o3", "ABC"), ("o4", "zq9")] {
            put(&server, observation(id, code)).await;
        }
        put(
            &server,
            json!({ "resourceType": "Patient", "id": "p1", "identifier": [{ "system": "urn:alone" }], "telecom": [
            { "system": "email", "value": "A@B.org" }, { "system": "phone", "value": "0713" }] }),
        )
        .await;
        put(&server, json!({ "resourceType": "Patient", "id": "p2", "telecom": [{ "system": "email", "value": "a@b.org" }] })).await;
        put(&server, json!({ "resourceType": "ValueSet", "id": "v", "url": "http://x.org/v", "version": "1.0-Beta", "status": "active" }))
            .await;
        expect(
            &server,
            &[
                ("Observation?code=http://x.org/cs|ABC", &["Observation/o3"]),
                ("Patient?identifier=urn:alone|", &["Patient/p1"]),
                ("Patient?identifier:missing=false", &["Patient/p1"]),
                ("Patient?email=A@b.ORG", &["Patient/p1", "Patient/p2"]),
                ("Patient?telecom=a@b.org", &["Patient/p1", "Patient/p2"]),
                ("Patient?email:not=a@b.org", &[]),
                ("Patient?phone=a@b.org", &[]),
                ("ValueSet?_id=v&version=1.0-beta", &["ValueSet/v"]),
                ("ValueSet?_id=v&version=1.0-BETA", &["ValueSet/v"]),
                ("ValueSet?_id=v&version:not=1.0-bETA", &[]),
                ("ValueSet?url=http://x.org/v|1.0-Beta", &["ValueSet/v"]),
                ("ValueSet?url=http://x.org/v|1", &[]),
                ("ValueSet?url=http://x.org/v|1,http://x.org/v|1.0-beta", &["ValueSet/v"]),
                ("ValueSet?_filter=_id eq v and version eq 1.0-BETA", &["ValueSet/v"]),
                ("ValueSet?_filter=_id eq v and version ne 1.0-BETA", &[]),
                ("ValueSet?_filter=_id eq v and version ne 1.0", &["ValueSet/v"]),
                ("ValueSet?_filter=url eq http://x.org/v|1.0-beta", &["ValueSet/v"]),
                ("ValueSet?_filter=_id eq v and url ne http://x.org/v|1.0-beta", &[]),
                ("ValueSet?_filter=_id eq v and url ne http://x.org/v|2", &["ValueSet/v"]),
                ("Patient?_filter=email sw A@", &["Patient/p1", "Patient/p2"]),
                ("Observation?_filter=code sw ab", &["Observation/o1"]),
                ("Observation?code:below=zq9", &["400"]),
            ],
        )
        .await;
        put(&server, json!({ "resourceType": "Observation", "id": "o5", "status": "final", "code": { "coding": [{ "system": "http://x.org/cs", "code": "É" }] } }))
            .await;
        // The code system arrives later and counts at once.
        put(
            &server,
            json!({ "resourceType": "CodeSystem", "id": "cs", "url": "http://x.org/cs", "status": "active", "content": "complete", "caseSensitive": false,
                "concept": [{ "code": "AbC", "concept": [{ "code": "ZQ9" }] }, { "code": "é" }, { "code": "e" }] }),
        )
        .await;
        put(
            &server,
            json!({ "resourceType": "ValueSet", "id": "set", "url": "http://x.org/set", "status": "active",
                "compose": { "include": [{ "system": "http://x.org/cs", "concept": [{ "code": "AbC" }] }] } }),
        )
        .await;
        let three = &["Observation/o1", "Observation/o2", "Observation/o3"];
        expect(
            &server,
            &[
                ("Observation?code=http://x.org/cs|aBc", three),
                ("Observation?code=abc", three),
                ("Observation?_filter=code sw aB", three),
                ("Observation?_filter=code ne aBC", &["Observation/o4", "Observation/o5"]),
                ("Observation?code=http://x.org/cs|é", &["Observation/o5"]),
                ("Observation?code=http://x.org/cs|e", &[]),
                ("Observation?code:not=http://x.org/cs|aBc", &["Observation/o4", "Observation/o5"]),
                ("Observation?code:in=http://x.org/set", three),
                ("Observation?code:not-in=http://x.org/set", &["Observation/o4", "Observation/o5"]),
                ("Observation?code:below=abc&_sort=_id", &["Observation/o1", "Observation/o2", "Observation/o3", "Observation/o4"]),
                ("Observation?code:below=zq9", &["Observation/o4"]),
            ],
        )
        .await;
        server.stop().await;
    }
);

both_databases!(
    async fn quantities_sort_by_what_they_amount_to(db: &TestDb) {
        let server = TestServer::open(db).await;
        let weights = [("1", "[lb_av]"), ("400", "g"), ("0.5", "kg"), ("3", "stones"), ("1.000000000000000000E-245", "g"), ("2", "stones")];
        for (n, (value, unit)) in weights.iter().enumerate() {
            let system = if *unit == "stones" { "urn:units" } else { "http://unitsofmeasure.org" };
            let text = format!(
                r#"{{"resourceType":"Observation","id":"o{n}","status":"final","code":{{"text":"weight"}},
                    "valueQuantity":{{"value":{value},"unit":"of {unit}","system":"{system}","code":"{unit}"}}}}"#
            );
            put(&server, serde_json::from_str(&text).unwrap()).await;
        }
        put(&server, json!({ "resourceType": "Observation", "id": "o9", "status": "final", "code": { "text": "weight" } })).await;
        for (sort, order) in [("value-quantity", "4102539"), ("-value-quantity", "2014359")] {
            let expected: Vec<String> = order.chars().map(|n| format!("Observation/o{n}")).collect();
            assert_eq!(found(&server, &format!("Observation?_sort={sort}")).await, expected, "{sort}");
            let mut paged = Vec::new();
            let mut next = Some(server.url(&format!("/fhir/Observation?_sort={sort}&_count=2")));
            while let Some(url) = next {
                let bundle: Value = server.client.get(url).send().await.unwrap().json().await.unwrap();
                paged.extend(names(&bundle));
                let link = bundle["link"].as_array().unwrap().iter().find(|link| link["relation"] == "next");
                next = link.map(|link| link["url"].as_str().unwrap().to_owned());
            }
            assert_eq!(paged, expected, "{sort} in pages");
        }
        expect(
            &server,
            &[
                ("Observation?value-quantity=lt0.001&_sort=_id", &["Observation/o4"]),
                ("Observation?value-quantity=lt1e-10|http://unitsofmeasure.org|kg", &["Observation/o4"]),
                ("Observation?value-quantity=lt1e-10|http://unitsofmeasure.org|m", &[]),
                ("Observation?value-quantity=400||of g", &["Observation/o1"]),
            ],
        )
        .await;
        server.stop().await;
    }
);

const WORDS: [&str; 7] = ["bone", "liver", "metastases", "fever", "or", "typhoid", "metastasis"];

/// Whether the words of a resource are what is looked for.
type Meaning = Box<dyn Fn(&BTreeSet<String>) -> bool>;

/// An expression over words and what it means.
fn expression(chance: &mut Chance, depth: usize) -> (String, Meaning) {
    let word = *chance.pick(&WORDS);
    match chance.below(if depth > 3 { 3 } else { 8 }) {
        0 | 1 if word != "or" => (word.to_uppercase(), Box::new(move |words| words.contains(word))),
        0 | 2 => {
            let other = *chance.pick(&WORDS);
            (
                format!("\"{word}{} {other}\"", chance.pick(&[",", "\\,"])),
                Box::new(move |words| words.contains(word) && words.contains(other)),
            )
        }
        1 => ("metast*".to_owned(), Box::new(|words| words.iter().any(|word| word.starts_with("metast")))),
        3 => {
            let (text, holds) = expression(chance, depth + 1);
            (format!("{} ({text})", chance.pick(&["not", "NOT"])), Box::new(move |words| !holds(words)))
        }
        n => {
            let ((left, l), (right, r)) = (expression(chance, depth + 1), expression(chance, depth + 1));
            match n {
                4 | 5 => (format!("({left}) {} ({right})", chance.pick(&["or", "OR", ","])), Box::new(move |words| l(words) || r(words))),
                6 => (format!("({left}) {} ({right})", chance.pick(&["and", "AND"])), Box::new(move |words| l(words) && r(words))),
                _ => (format!("({left}) ({right})"), Box::new(move |words| l(words) && r(words))),
            }
        }
    }
}

both_databases!(
    async fn expressions_over_words_find_what_a_slow_scan_finds(db: &TestDb) {
        let server = TestServer::start(db, |settings| {
            settings.auth = lango::config::AuthMode::Open;
            settings.search.full_text = true;
        })
        .await;
        let mut chance = Chance::new(77);
        let mut world: Vec<(BTreeSet<String>, BTreeSet<String>)> = Vec::new();
        for n in 0..24 {
            let mut drawn = |most: usize| (0..chance.below(most)).map(|_| (*chance.pick(&WORDS)).to_owned()).collect::<Vec<_>>();
            let (told, noted) = (drawn(5), drawn(3));
            let mut condition = json!({ "resourceType": "Condition", "id": format!("c{n:02}"), "subject": { "display": "x" },
                "text": { "status": "generated", "div": format!("<div xmlns=\"http://www.w3.org/1999/xhtml\">{}.</div>", told.join(" - ")) } });
            if !noted.is_empty() {
                condition["note"] = json!([{ "text": noted.join(", ") }]);
            }
            put(&server, condition).await;
            let told: BTreeSet<String> = told.into_iter().collect();
            world.push((told.clone(), told.into_iter().chain(noted).chain(["x".to_owned()]).collect()));
        }
        let mut some = 0;
        for n in 0..120 {
            let content = n % 2 == 0;
            let ((left, l), (right, r)) = (expression(&mut chance, 0), expression(&mut chance, 0));
            let both = n % 5 == 0;
            let value = if both { format!("{left},{right}") } else { left };
            let holds = |words: &BTreeSet<String>| l(words) || both && r(words);
            let matches = world.iter().enumerate().filter(|(_, (told, all))| holds(if content { all } else { told }));
            let expected: Vec<String> = matches.map(|(n, _)| format!("Condition/c{n:02}")).collect();
            some += usize::from(!expected.is_empty() && expected.len() < world.len());
            let search = format!("Condition?{}={value}&_count=100&_sort=_id", if content { "_content" } else { "_text" });
            assert_eq!(found(&server, &search).await, expected, "{search}");
        }
        assert!(some > 40, "only {some} searches tell resources apart");
        let long = "a".repeat(900);
        for broken in ["(bone", "bone)", "bone or", "not", "\"bone", "()", "bone,", "me*s", "*ses", &long] {
            expect(&server, &[(&format!("Condition?_text={broken}"), &["400"])]).await;
        }
        server.stop().await;
    }
);

both_databases!(
    async fn iterated_includes_go_on_to_the_last_generation(db: &TestDb) {
        let server = TestServer::open(db).await;
        const GENERATIONS: usize = 30;
        for n in 0..GENERATIONS {
            let above = json!({ "reference": format!("Organization/ch{}", n + 1) });
            let mut organization = json!({ "resourceType": "Organization", "id": format!("ch{n}"), "name": "x" });
            if n + 1 < GENERATIONS {
                organization["partOf"] = above;
            }
            put(&server, organization).await;
            let next = json!({ "reference": format!("Patient/r{}", (n + 1) % GENERATIONS) });
            put(&server, json!({ "resourceType": "Patient", "id": format!("r{n}"), "link": [{ "other": next, "type": "seealso" }] })).await;
        }
        for search in [
            "Organization?_id=ch0&_include:iterate=Organization:partof",
            "Organization?_id=ch29&_revinclude:iterate=Organization:partof",
            "Patient?_id=r3&_include:iterate=Patient:link",
            // All parameters of all types are one look-up for each generation.
            "Organization?_id=ch15&_include:iterate=*&_revinclude:iterate=*",
        ] {
            let (_, bundle) = server.get(&format!("/fhir/{search}")).await;
            let modes: Vec<&str> = bundle["entry"].as_array().unwrap().iter().map(|one| one["search"]["mode"].as_str().unwrap()).collect();
            assert_eq!((modes.len(), modes.iter().filter(|mode| **mode == "include").count()), (30, 29), "{search}: {bundle}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn what_a_bundle_holds_is_not_searched(db: &TestDb) {
        let server = TestServer::open(db).await;
        for search in ["composition.title=x", "composition:Composition.patient=p", "message.event=x"] {
            let (status, outcome) = server.get(&format!("/fhir/Bundle?{search}")).await;
            assert_eq!((status, &outcome["issue"][0]["code"]), (400, &json!("not-supported")), "{search}: {outcome}");
        }
        assert_eq!(server.get("/fhir/Bundle?composition=Composition/c").await.0, 200);
        server.stop().await;
    }
);

both_databases!(
    async fn an_include_gives_the_version_that_is_named(db: &TestDb) {
        let server = TestServer::open(db).await;
        for active in [true, false, true] {
            put(&server, json!({ "resourceType": "Patient", "id": "p", "active": active, "name": [{ "family": active.to_string() }] }))
                .await;
        }
        let observation = |id: &str, subject: &str| json!({ "resourceType": "Observation", "id": id, "status": "final", "code": { "text": "x" }, "subject": { "reference": subject } });
        put(&server, observation("old", "Patient/p/_history/2")).await;
        put(&server, observation("gone", "Patient/p/_history/9")).await;
        put(&server, observation("now", "Patient/p")).await;
        for (ids, version) in [("old", Some("2")), ("gone", None), ("now", Some("3")), ("old,now", Some("3")), ("old,gone", Some("3"))] {
            let (_, bundle) = server.get(&format!("/fhir/Observation?_id={ids}&_include=Observation:subject")).await;
            let patients = bundle["entry"].as_array().unwrap().iter().map(|entry| &entry["resource"]).filter(|one| one["id"] == "p");
            let versions: Vec<&str> = patients.map(|one| one["meta"]["versionId"].as_str().unwrap()).collect();
            assert_eq!(versions, version.into_iter().collect::<Vec<_>>(), "{ids}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn pages_end_with_words_when_what_decides_them_is_changed(db: &TestDb) {
        let server = TestServer::open(db).await;
        let value_set = |codes: &[&str]| {
            let concepts: Vec<Value> = codes.iter().map(|code| json!({ "code": code })).collect();
            json!({
                "resourceType": "ValueSet", "id": "v", "url": "urn:lango:test:v", "status": "active",
                "compose": { "include": [{ "system": "urn:lango:test:codes", "concept": concepts }] },
            })
        };
        put(&server, value_set(&["a", "b"])).await;
        for (id, code) in [("o1", "a"), ("o2", "b"), ("o3", "a"), ("o4", "b")] {
            let coding = json!([{ "system": "urn:lango:test:codes", "code": code }]);
            put(&server, json!({ "resourceType": "Observation", "id": id, "status": "final", "code": { "coding": coding } })).await;
        }
        let next = |page: &Value| {
            let link = page["link"].as_array().unwrap().iter().find(|link| link["relation"] == "next").unwrap().clone();
            let url = link["url"].as_str().unwrap();
            url[url.find("/fhir").unwrap()..].to_owned()
        };
        let (_, first) = server.get("/fhir/Observation?code:in=urn:lango:test:v&_count=1").await;
        // Told in another order it is the same.
        put(&server, value_set(&["b", "a"])).await;
        let (status, second) = server.get(&next(&first)).await;
        assert_eq!((status, names(&second)), (200, vec!["Observation/o2".to_owned()]));
        put(&server, value_set(&["b"])).await;
        let (status, outcome) = server.get(&next(&second)).await;
        assert_eq!((status, &outcome["issue"][0]["expression"][0]), (400, &json!("_cursor")), "{outcome}");
        expect(&server, &[("Observation?code:in=urn:lango:test:v", &["Observation/o2", "Observation/o4"])]).await;
        server.stop().await;
    }
);
