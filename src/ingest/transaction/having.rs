//! The resources of a transaction by the values that criteria name, so that not everything is held against everything.

use super::super::criteria::Criteria;
use crate::fhir::text::comparable;
use crate::fhir::time::Micros;
use crate::store::index::UNFIT;
use crate::store::query::{DateOp, Test};
use crate::store::{Filter, IndexEntry, IndexValue, ParamId, TypeCode};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Comparisons of a value with a test that one transaction may cost, about a second's work: what criteria name by a token, a reference, a uri,
/// the beginning of a text or a date is looked up and costs hardly any.
const MOST_COMPARISONS: usize = 2_000_000;

/// A resource has about so many values, or fewer.
const USUAL_ENTRIES: usize = 32;

/// A resource that the transaction writes.
#[derive(Clone, Copy)]
pub struct Written<'d> {
    pub type_code: TypeCode,
    pub id: &'d str,
    pub entries: &'d [IndexEntry],
}

/// The resources that a transaction writes, to be asked for those that criteria match.
pub struct Having<'d> {
    resources: Vec<Written<'d>>,
    /// Codes, uris and ids of references as they are, texts folded.
    texts: BTreeMap<(ParamId, String), Vec<usize>>,
    /// By their beginnings.
    dates: BTreeMap<(ParamId, Micros), Vec<usize>>,
    ids: HashMap<&'d str, Vec<usize>>,
    types: HashMap<TypeCode, Vec<usize>>,
    comparisons: usize,
}

/// The criteria of the transaction cannot be looked up by a value, and are too many to be held against everything.
#[derive(Debug)]
pub struct TooMany;

impl<'d> Having<'d> {
    /// Ready to be asked for any of the criteria.
    pub fn new<'c>(resources: Vec<Written<'d>>, criteria: impl Iterator<Item = &'c Criteria>) -> Having<'d> {
        let mut named = HashSet::new();
        for criteria in criteria {
            criteria.asked().iter().for_each(|filter| params(filter, &mut named));
            named.extend(criteria.unfit());
        }
        let mut having = Having {
            resources: Vec::new(),
            texts: BTreeMap::new(),
            dates: BTreeMap::new(),
            ids: HashMap::new(),
            types: HashMap::new(),
            comparisons: 0,
        };
        for (place, resource) in resources.iter().enumerate() {
            having.ids.entry(resource.id).or_default().push(place);
            having.types.entry(resource.type_code).or_default().push(place);
            for entry in resource.entries.iter().filter(|entry| named.contains(&entry.param)) {
                let text = match &entry.value {
                    IndexValue::Token { code, .. } => code.to_string(),
                    IndexValue::Uri(uri) => uri.to_string(),
                    IndexValue::Reference { id, .. } => id.to_string(),
                    IndexValue::String { text } => comparable(text),
                    IndexValue::Text(text) => text.to_string(),
                    IndexValue::Date(interval) => {
                        having.dates.entry((entry.param, interval.low)).or_default().push(place);
                        continue;
                    }
                    _ => continue,
                };
                having.texts.entry((entry.param, text)).or_default().push(place);
            }
        }
        having.resources = resources;
        having
    }

    /// The places of those that the criteria match, in order, and whether that is certain.
    pub fn matching(&mut self, criteria: &Criteria) -> Result<Vec<(usize, bool)>, TooMany> {
        let of_type = [self.types.get(&criteria.type_code()).map_or(&[][..], Vec::as_slice)];
        let (mut least, mut looked) = (of_type.to_vec(), 0);
        for filter in criteria.asked() {
            if let Some(lists) = self.candidates(filter, &mut looked)
                && count(&lists) < count(&least)
            {
                least = lists;
            }
        }
        let tests: usize = criteria.asked().iter().map(tests).sum();
        // A resource of thousands of names costs as much as many.
        let weight = |place: &usize| 1 + self.resources.get(*place).map_or(0, |one| one.entries.len() / USUAL_ENTRIES);
        let weights: usize = least.iter().copied().flatten().map(weight).fold(0, usize::saturating_add);
        let cost = weights.saturating_mul(tests.max(1)).saturating_add(looked);
        let comparisons = self.comparisons.saturating_add(cost);
        if comparisons > MOST_COMPARISONS {
            return Err(TooMany);
        }
        let mut places: Vec<usize> = least.concat();
        // What an own parameter fails on is under none of its values, and may have any.
        places.extend(criteria.unfit().filter_map(|place| self.texts.get(&(place, UNFIT.to_owned()))).flatten());
        self.comparisons = comparisons;
        places.sort_unstable();
        places.dedup();
        let judged = places.into_iter().filter_map(|place| {
            let Written { type_code, id, entries } = self.resources.get(place)?;
            match criteria.matches_draft(*type_code, id, entries) {
                Some(false) => None,
                verdict => Some((place, verdict.is_some())),
            }
        });
        Ok(judged.collect())
    }

    /// All that may pass the filter, in lists; `None`: anything may. `looked`: counts the values that were looked at.
    fn candidates(&self, filter: &Filter, looked: &mut usize) -> Option<Vec<&[usize]>> {
        match filter {
            Filter::Nothing => Some(Vec::new()),
            Filter::Any(filters) => {
                let lists = filters.iter().map(|filter| self.candidates(filter, looked)).collect::<Option<Vec<_>>>()?;
                Some(lists.concat())
            }
            Filter::All(filters) => filters.iter().filter_map(|filter| self.candidates(filter, looked)).min_by_key(|lists| count(lists)),
            Filter::Param { param, tests } => {
                let lists = tests.iter().map(|test| self.passing(*param, test, looked)).collect::<Option<Vec<_>>>()?;
                Some(lists.concat())
            }
            Filter::Id(ids) => Some(ids.iter().filter_map(|id| self.ids.get(id.as_str())).map(Vec::as_slice).collect()),
            _ => None,
        }
    }

    fn passing(&self, param: ParamId, test: &Test, looked: &mut usize) -> Option<Vec<&[usize]>> {
        let is = |text: &str| self.texts.get(&(param, text.to_owned())).map(Vec::as_slice);
        match test {
            Test::Token { code: Some(text), .. } | Test::StringIs(text) | Test::Uri(text) | Test::Reference { id: text, .. } => {
                *looked += 1;
                Some(is(text).into_iter().collect())
            }
            Test::StringExact(text) => {
                *looked += 1;
                Some(is(&comparable(text)).into_iter().collect())
            }
            Test::TokenIn { codes, .. } => {
                *looked += codes.len();
                Some(codes.iter().filter_map(|code| is(code)).collect())
            }
            Test::StringStarts(start) | Test::TextStarts(start) | Test::TokenStarts(start) | Test::Canonical(start) => {
                let from = self.texts.range((param, start.clone())..);
                let lists = from.take_while(|((of, text), _)| *of == param && text.starts_with(start.as_str()));
                let lists: Vec<&[usize]> = lists.map(|(_, places)| places.as_slice()).collect();
                *looked += lists.len() + 1;
                Some(lists)
            }
            Test::Date { op: DateOp::Eq, interval } if interval.low <= interval.high => {
                let lists = self.dates.range((param, interval.low)..=(param, interval.high));
                let lists: Vec<&[usize]> = lists.map(|(_, places)| places.as_slice()).collect();
                *looked += lists.len() + 1;
                Some(lists)
            }
            _ => None,
        }
    }
}

fn count(lists: &[&[usize]]) -> usize {
    lists.iter().map(|list| list.len()).sum()
}

/// The numbers of all indexes that the filter looks into.
fn params(filter: &Filter, found: &mut HashSet<ParamId>) {
    match filter {
        Filter::Param { param, .. } => _ = found.insert(*param),
        Filter::Any(filters) | Filter::All(filters) => filters.iter().for_each(|filter| params(filter, found)),
        _ => {}
    }
}

/// What one resource may cost.
fn tests(filter: &Filter) -> usize {
    match filter {
        Filter::Param { tests, .. } | Filter::NotParam { tests, .. } => {
            tests.iter().map(|test| if let Test::TokenIn { codes, .. } = test { codes.len() } else { 1 }).sum()
        }
        Filter::Any(filters) | Filter::All(filters) => filters.iter().map(tests).sum(),
        Filter::Not(filter) => tests(filter),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definitions;
    use crate::search::{ParseOptions, extract};
    use crate::store::Scope;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn criteria(text: &str) -> Criteria {
        let options = ParseOptions::new("http://localhost/fhir", jiff::tz::TimeZone::UTC);
        Criteria::parse(definitions::r4().type_code("Patient").unwrap(), text, &Scope::All, &options).unwrap()
    }

    /// Their ids and entries.
    fn extracted(resources: &[Value]) -> Vec<(String, Vec<IndexEntry>)> {
        let patient = definitions::r4().type_code("Patient").unwrap();
        let options = extract::Options::default();
        resources.iter().enumerate().map(|(n, one)| (format!("p{n}"), extract::extract(patient, one, &options))).collect()
    }

    fn written(extracted: &[(String, Vec<IndexEntry>)]) -> Vec<Written<'_>> {
        let type_code = definitions::r4().type_code("Patient").unwrap();
        extracted.iter().map(|(id, entries)| Written { type_code, id, entries }).collect()
    }

    fn patient(n: usize) -> Value {
        let words = ["Ann", "Ánna", "Bo", "annabel"];
        let (name, born) = (words[n % 4], ["1990-01-01", "1990-01-02", "1990-02", "1991"][n / 2 % 4]);
        let gender = if n.is_multiple_of(3) { "male" } else { "female" };
        let mail = ["A@b", "a@B", "c@d"][n % 3];
        let speaks = ["Swahili", "swa", "French"][n % 3];
        json!({
            "resourceType": "Patient", "active": n.is_multiple_of(2), "gender": gender,
            "identifier": [{ "system": format!("urn:{}", n % 2), "value": format!("{}", n % 5) }], "name": [{ "family": name }],
            "birthDate": born, "link": [{ "other": { "reference": format!("Patient/x{}", n % 3) } }],
            "telecom": [{ "system": "email", "value": mail }], "communication": [{ "language": { "text": speaks } }]
        })
    }

    const CRITERIA: [&str; 23] = [
        "identifier=1",
        "identifier=urn:1|2,urn:0|3",
        "identifier=urn:1|",
        "active=true",
        "name=ann",
        "name:exact=Ánna",
        "name:contains=nn",
        "birthdate=1990-01",
        "birthdate=1990-01-01",
        "birthdate=gt1990-01-01",
        "link=Patient/x1",
        "email=a@B",
        "gender:not=male",
        "_id=p1,p3",
        "organization.name=x",
        "_filter=(family eq ann or birthdate ge 1991) and not (active eq true)",
        "language:text=swa",
        "_filter=family eq anna",
        "_filter=family ew nna",
        "_filter=family ne bo",
        "_filter=identifier sw 1",
        "_filter=email ne \"a@b\"",
        "_filter=gender ne male",
    ];

    proptest! {
        #[test]
        fn what_is_looked_up_is_what_matches(people in prop::collection::vec(0usize..120, 0..12), asked in prop::collection::vec(0..CRITERIA.len(), 1..4)) {
            let extracted = extracted(&people.iter().map(|n| patient(*n)).collect::<Vec<_>>());
            let asked: Vec<&str> = asked.into_iter().map(|n| CRITERIA[n]).collect();
            let all = [criteria(&asked.join("&")), criteria(asked[0])];
            let mut having = Having::new(written(&extracted), all.iter());
            for one in &all {
                let judged = written(&extracted).into_iter().map(|of| one.matches_draft(of.type_code, of.id, of.entries)).enumerate();
                let expected: Vec<(usize, bool)> =
                    judged.filter(|(_, verdict)| *verdict != Some(false)).map(|(place, verdict)| (place, verdict.is_some())).collect();
                prop_assert_eq!(having.matching(one).unwrap(), expected, "{:?}", asked);
            }
        }
    }

    #[test]
    fn what_one_value_tells_is_judged_without_the_store() {
        let extracted = extracted(&(0..4).map(patient).collect::<Vec<_>>());
        for (text, matching) in [
            ("language:text=swa", &[0, 1, 3][..]),
            ("_filter=family eq anna", &[1]),
            ("_filter=family ew nna", &[1]),
            ("_filter=family sw ann", &[0, 1, 3]),
            ("_filter=family ne bo", &[0, 1, 3]),
            ("_filter=identifier sw 3", &[3]),
            ("_filter=email ne \"a@b\"", &[2]),
        ] {
            let one = criteria(text);
            let judged: Vec<Option<bool>> =
                written(&extracted).iter().map(|of| one.matches_draft(of.type_code, of.id, of.entries)).collect();
            let expected: Vec<Option<bool>> = (0..4).map(|n| Some(matching.contains(&n))).collect();
            assert_eq!(judged, expected, "{text}");
        }
    }

    #[test]
    fn what_names_a_value_is_not_held_against_everything() {
        let person = |n: usize| {
            let day = format!("19{:02}-{:02}-{:02}", n % 90 + 10, n % 12 + 1, n % 28 + 1);
            json!({
                "resourceType": "Patient", "active": true, "identifier": [{ "system": "urn:s", "value": n.to_string() }], "birthDate": day,
                "name": [{ "family": format!("family{n}x") }]
            })
        };
        let most = 1_500;
        let extracted = extracted(&(0..most).map(person).collect::<Vec<_>>());
        for (text, told) in [
            ("active=true&identifier=urn:s|{}", true),
            ("identifier=urn:s|{}&active=true", true),
            ("family=family{}x&birthdate=1990,1991", true),
            ("birthdate=1987-05-17&active=true&identifier:not={}", true),
            ("active=true&identifier:not={}", false),
        ] {
            let all: Vec<Criteria> = (0..most).map(|n| criteria(&text.replace("{}", &n.to_string()))).collect();
            let mut having = Having::new(written(&extracted), all.iter());
            assert_eq!(all.iter().all(|one| having.matching(one).is_ok()), told, "{text}");
        }
    }
}
