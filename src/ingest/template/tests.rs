use super::*;
use include_dir::{Dir, include_dir};
use std::collections::HashMap;
use std::sync::LazyLock;

static MAPS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/conceptmaps");
static TEMPLATES: LazyLock<Templates> = LazyLock::new(|| Templates::shipped().unwrap_or_else(|error| panic!("{error}")));
static ZONE: LazyLock<TimeZone> = LazyLock::new(|| TimeZone::fixed(jiff::tz::offset(3)));

/// The shipped ConceptMaps, read plainly.
struct Shipped(HashMap<String, Vec<Value>>);

static SHIPPED: LazyLock<Shipped> = LazyLock::new(|| {
    let maps = MAPS.files().filter(|file| file.path().extension().is_some_and(|end| end == "json"));
    let maps =
        maps.filter_map(|file| serde_json::from_slice::<Value>(file.contents()).ok()).filter(|map| map["resourceType"] == "ConceptMap");
    Shipped(maps.map(|map| (map["url"].as_str().unwrap().to_owned(), map["group"].as_array().cloned().unwrap_or_default())).collect())
});

impl Translate for Shipped {
    fn translate(&self, map_url: &str, system: Option<&str>, code: &str) -> Option<Vec<Coding>> {
        let string = |value: &Value| value.as_str().map(str::to_owned);
        let mut found = Vec::new();
        for group in self.0.get(map_url)?.iter().filter(|group| system.is_none() || group["source"].as_str() == system) {
            let element = group["element"]
                .as_array()?
                .iter()
                .find(|element| element["code"].as_str().is_some_and(|known| known.eq_ignore_ascii_case(code)));
            for target in element.iter().flat_map(|element| element["target"].as_array()).flatten() {
                found.push(Coding {
                    system: string(&group["target"]),
                    code: string(&target["code"])?,
                    display: string(&target["display"]),
                    equivalence: string(&target["equivalence"]),
                });
            }
            if element.is_none() && group["unmapped"]["mode"] == "provided" {
                found.push(Coding { system: string(&group["target"]), code: code.to_owned(), ..Coding::default() });
            }
        }
        Some(found)
    }
}

fn options() -> Options<'static> {
    Options { facility: None, operator: "000000-0", zone: &ZONE, strict_blocks: false }
}

fn process(payload: &Value) -> Processed {
    TEMPLATES.process(payload.to_string().as_bytes(), &options(), &*SHIPPED).unwrap_or_else(|error| panic!("{error}"))
}

fn sample() -> Value {
    let (_, sample) = TEMPLATES.get("hdu").unwrap().examples().find(|(name, _)| *name == "antenatal-visit.json").unwrap();
    sample.clone()
}

fn resources(record: &Record) -> &[Produced] {
    match &record.verdict {
        Verdict::Accepted { resources } => resources,
        Verdict::Rejected => panic!("rejected: {:?}", record.errors),
    }
}

#[test]
fn the_worked_sample_is_accepted_without_a_warning() {
    let processed = process(&sample());
    let record = &processed.records[0];
    for produced in processed.shared.iter().chain(resources(record)) {
        println!("{:?} {}", produced.update, serde_json::to_string_pretty(&produced.resource).unwrap());
    }
    println!("{:#?}", record.unmapped);
    assert_eq!(record.warnings, []);
    assert_eq!(processed.envelope_warnings, []);
}

fn all_resources(processed: &Processed) -> Vec<&Value> {
    let records = processed.records.iter().flat_map(|record| resources(record));
    processed.shared.iter().chain(records).map(|produced| &produced.resource).collect()
}

#[test]
fn every_shipped_example_gives_valid_resources_without_a_warning() {
    for definition in TEMPLATES.definitions() {
        for (name, example) in definition.examples() {
            let processed = process(example);
            assert_eq!(processed.template, definition.name(), "{name} is read by the template whose example it is");
            assert_eq!(processed.envelope_warnings, [], "{name}");
            for record in &processed.records {
                assert_eq!((&*record.warnings, &*record.unmapped), (&[][..], &[][..]), "{name}");
            }
            for resource in all_resources(&processed) {
                assert_eq!(crate::validate::structure(resource), [], "{name}: {resource:#}");
            }
        }
    }
}
