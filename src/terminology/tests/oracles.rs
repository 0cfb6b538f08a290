//! The engine against definitions written as plainly as possible.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const URL: &str = "http://test/p";
const SIZE: usize = 9;

type Codes = BTreeSet<usize>;

fn code(n: usize) -> String {
    format!("c{n}")
}

/// A system of [`SIZE`] codes with these edges from parent to child, told by properties.
fn system(edges: &[(usize, usize)]) -> Value {
    let concept = |n: usize| {
        let parents =
            edges.iter().filter(|(_, child)| *child == n).map(|(parent, _)| json!({ "code": "parent", "valueCode": code(*parent) }));
        let mut properties: Vec<Value> = parents.collect();
        properties.push(json!({ "code": "odd", "valueBoolean": n % 2 == 1 }));
        json!({ "code": code(n), "display": format!("Concept {n}"), "property": properties })
    };
    json!({ "resourceType": "CodeSystem", "id": "p", "url": URL, "status": "active", "content": "complete", "concept": (0..SIZE).map(concept).collect::<Vec<_>>() })
}

/// `above[a]` holds every code below `a`: the edges, closed by repetition.
fn closure(edges: &[(usize, usize)]) -> Vec<Codes> {
    let mut below: Vec<Codes> = (0..SIZE)
        .map(|a| edges.iter().filter(|(parent, child)| *parent == a && child != parent).map(|(_, child)| *child).collect())
        .collect();
    for _ in 0..SIZE {
        for a in 0..SIZE {
            let further: Codes = below[a].iter().flat_map(|b| below[*b].clone()).collect();
            below[a].extend(further);
        }
    }
    below
}

#[derive(Clone, Debug)]
enum Part {
    All,
    List(Vec<usize>),
    IsA(usize),
    Below(usize),
    NotIsA(usize),
    Odd(bool),
    /// Another value set of the family, by its place.
    Set(usize),
    /// The codes of the list that are also in the other value set.
    ListInSet(Vec<usize>, usize),
}

impl Part {
    fn json(&self) -> Value {
        let filter = |property: &str, op: &str, value: String| json!({ "system": URL, "filter": [{ "property": property, "op": op, "value": value }] });
        let list = |codes: &[usize]| codes.iter().map(|n| json!({ "code": code(*n) })).collect::<Vec<_>>();
        let set = |n: &usize| format!("http://test/vs/{n}");
        match self {
            Part::All => json!({ "system": URL }),
            Part::List(codes) => json!({ "system": URL, "concept": list(codes) }),
            Part::IsA(n) => filter("concept", "is-a", code(*n)),
            Part::Below(n) => filter("concept", "descendent-of", code(*n)),
            Part::NotIsA(n) => filter("concept", "is-not-a", code(*n)),
            Part::Odd(odd) => filter("odd", "=", odd.to_string()),
            Part::Set(n) => json!({ "valueSet": [set(n)] }),
            Part::ListInSet(codes, n) => json!({ "system": URL, "concept": list(codes), "valueSet": [set(n)] }),
        }
    }

    fn codes(&self, below: &[Codes], sets: &[Codes]) -> Codes {
        let all = || 0..SIZE;
        match self {
            Part::All => all().collect(),
            Part::List(codes) => codes.iter().copied().collect(),
            Part::IsA(n) => all().filter(|c| c == n || below[*n].contains(c)).collect(),
            // In a loop a code is below itself, which nobody means.
            Part::Below(n) => all().filter(|c| c != n && below[*n].contains(c)).collect(),
            Part::NotIsA(n) => all().filter(|c| c != n && !below[*n].contains(c)).collect(),
            Part::Odd(odd) => all().filter(|c| (c % 2 == 1) == *odd).collect(),
            Part::Set(n) => sets.get(*n).cloned().unwrap_or_default(),
            Part::ListInSet(codes, n) => codes.iter().copied().filter(|c| sets.get(*n).is_some_and(|set| set.contains(c))).collect(),
        }
    }
}

fn part(earlier: usize) -> BoxedStrategy<Part> {
    let codes = || prop::collection::vec(0..SIZE, 1..5);
    let plain = prop_oneof![
        Just(Part::All),
        codes().prop_map(Part::List),
        (0..SIZE).prop_map(Part::IsA),
        (0..SIZE).prop_map(Part::Below),
        (0..SIZE).prop_map(Part::NotIsA),
        any::<bool>().prop_map(Part::Odd),
    ];
    match earlier {
        0 => plain.boxed(),
        _ => prop_oneof![2 => plain, 1 => (0..earlier).prop_map(Part::Set), 1 => (codes(), 0..earlier).prop_map(|(c, n)| Part::ListInSet(c, n))].boxed(),
    }
}

fn family() -> impl Strategy<Value = Vec<(Vec<Part>, Vec<Part>)>> {
    let set = |n| (prop::collection::vec(part(n), 1..4), prop::collection::vec(part(n), 0..3));
    (set(0), set(1), set(2)).prop_map(|(a, b, c)| vec![a, b, c])
}

fn edges() -> impl Strategy<Value = Vec<(usize, usize)>> {
    prop::collection::vec((0..SIZE, 0..SIZE), 0..14)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn expansion_and_membership_are_the_set_that_the_definition_names(edges in edges(), family in family()) {
        let below = closure(&edges);
        let mut resources = vec![system(&edges)];
        let mut sets: Vec<Codes> = Vec::new();
        for (n, (include, exclude)) in family.iter().enumerate() {
            let json = |parts: &[Part]| parts.iter().map(Part::json).collect::<Vec<_>>();
            resources.push(value_set(&n.to_string(), json!({ "include": json(include), "exclude": json(exclude) })));
            let union = |parts: &[Part]| parts.iter().flat_map(|part| part.codes(&below, &sets)).collect::<Codes>();
            let set = union(include).difference(&union(exclude)).copied().collect();
            sets.push(set);
        }
        let terminology = holding(&resources);
        for (n, set) in sets.iter().enumerate() {
            let url = format!("http://test/vs/{n}");
            let answer = ask(&terminology, "ValueSet", "expand", &[("url", &url)]).unwrap();
            let listed: Vec<&str> = answer["expansion"]["contains"].as_array().into_iter().flatten().map(|one| one["code"].as_str().unwrap()).collect();
            prop_assert_eq!(listed.iter().map(|code| code.to_string()).collect::<BTreeSet<_>>(), set.iter().map(|n| code(*n)).collect::<BTreeSet<_>>());
            prop_assert_eq!(listed.len(), set.len(), "each code once");
            for c in 0..SIZE {
                prop_assert_eq!(terminology.is_member(&url, URL, &code(c)), Some(set.contains(&c)));
            }
        }
    }

    #[test]
    fn subsumption_is_the_closure_of_the_edges(edges in edges()) {
        let below = closure(&edges);
        let terminology = holding(&[system(&edges)]);
        for a in 0..SIZE {
            for b in 0..SIZE {
                let answer = ask(&terminology, "CodeSystem", "subsumes", &[("system", URL), ("codeA", &code(a)), ("codeB", &code(b))]).unwrap();
                let outcome = if a == b { "equivalent" } else if below[a].contains(&b) { "subsumes" } else if below[b].contains(&a) { "subsumed-by" } else { "not-subsumed" };
                prop_assert_eq!(value(&answer, "outcome"), Some(&json!(outcome)));
            }
        }
    }

    #[test]
    fn what_leads_there_leads_back(pairs in prop::collection::vec((0..6usize, 0..6usize), 0..20)) {
        let element = |(a, b): &(usize, usize)| json!({ "code": code(*a), "target": [{ "code": code(*b), "equivalence": "equivalent" }] });
        let map = concept_map("m", json!([{ "source": "http://test/a", "target": "http://test/b", "element": pairs.iter().map(element).collect::<Vec<_>>() }]));
        let terminology = holding(&[map]);
        let found = |from: &str, n: usize, reverse: &str| -> BTreeSet<String> {
            let arguments = query(&[("url", "http://test/cm/m"), ("system", from), ("code", &code(n)), ("reverse", reverse)]);
            let answer = terminology.translate(&translate::TranslateRequest::read(None, &arguments).unwrap()).unwrap();
            answer.matches.iter().filter_map(|one| one.code.as_deref().map(str::to_owned)).collect()
        };
        for n in 0..6 {
            prop_assert_eq!(found("http://test/a", n, "false"), pairs.iter().filter(|(a, _)| *a == n).map(|(_, b)| code(*b)).collect());
            prop_assert_eq!(found("http://test/b", n, "true"), pairs.iter().filter(|(_, b)| *b == n).map(|(a, _)| code(*a)).collect());
        }
    }
}
