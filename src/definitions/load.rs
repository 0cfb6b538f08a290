//! Unpacks the compact files. What they hold is made by `compile.py` and tested here, so a fault in them is a fault of the build.

use super::search::param_id;
use super::structure::{CodeGroup, CodeSet, Element, ElementKind, ElementType, Primitive, Structure, StructureIndex, StructureKind};
use super::{ByName, Component, Definitions, Invariant, ParamKind, SearchParam, TypeCode};
use flate2::read::GzDecoder;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::marker::PhantomData;

const ORDER: &str = include_str!("r4/order.json");
const COMPARTMENTS: &str = include_str!("r4/compartments.json");
const SEARCH: &[u8] = include_bytes!("r4/search.json.gz");
const STRUCTURES: &[u8] = include_bytes!("r4/structures.json.gz");
const CODES: &[u8] = include_bytes!("r4/codes.json.gz");
const INVARIANTS: &[u8] = include_bytes!("r4/invariants.json.gz");
const PROFILES: &[u8] = include_bytes!("r4/profiles.json.gz");

#[derive(Deserialize)]
struct Order<'a> {
    #[serde(borrow)]
    types: Vec<&'a str>,
    codes: Vec<&'a str>,
}

#[derive(Deserialize)]
struct Search<'a> {
    #[serde(borrow)]
    params: Pairs<'a, Vec<ParamRow<'a>>>,
    patient: Pairs<'a, Vec<&'a str>>,
    /// Of each type, code and id of the parameters that have another id than `Type-code`.
    shared: Pairs<'a, Vec<(&'a str, &'a str)>>,
}

/// code, kind, expression, targets (`*`: any), components
#[derive(Deserialize)]
struct ParamRow<'a>(&'a str, &'a str, &'a str, #[serde(borrow)] Vec<&'a str>, #[serde(default)] Vec<(&'a str, &'a str, &'a str)>);

#[derive(Deserialize)]
struct StructureRow<'a> {
    k: &'a str,
    e: Vec<ElementRow<'a>>,
}

/// name, types, lower and upper limit (0: none), reference targets, required and extensible binding
#[derive(Deserialize)]
struct ElementRow<'a> {
    n: &'a str,
    #[serde(borrow)]
    t: Vec<&'a str>,
    #[serde(default)]
    l: u32,
    #[serde(default = "one")]
    u: u32,
    #[serde(default, borrow)]
    r: Vec<&'a str>,
    b: Option<&'a str>,
    x: Option<&'a str>,
}

fn one() -> u32 {
    1
}

/// An object's entries in their order.
struct Pairs<'a, T>(Vec<(&'a str, T)>);

impl<'de: 'a, 'a, T: Deserialize<'de>> Deserialize<'de> for Pairs<'a, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<'a, T>(PhantomData<(&'a (), T)>);
        impl<'de: 'a, 'a, T: Deserialize<'de>> Visitor<'de> for Entries<'a, T> {
            type Value = Pairs<'a, T>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

/// The text stays for the life of the process, and what is read from it borrows from it.
fn unpack<T: Deserialize<'static>>(packed: &[u8]) -> T {
    let mut text = String::new();
    GzDecoder::new(packed).read_to_string(&mut text).expect("a definitions file was not packed by compile.py");
    read(Box::leak(text.into_boxed_str()))
}

fn read<T: Deserialize<'static>>(text: &'static str) -> T {
    serde_json::from_str(text).expect("a definitions file has not the shape that compile.py writes")
}

/// key, first letter of the severity, human, expression
#[derive(Deserialize)]
struct InvariantRow(&'static str, &'static str, String, String);

/// Sorted by path.
pub(super) fn invariants() -> Vec<Invariant> {
    let rows: Pairs<'static, Vec<InvariantRow>> = unpack(INVARIANTS);
    let each = |(path, rows): (&'static str, Vec<InvariantRow>)| {
        rows.into_iter().map(move |InvariantRow(key, severity, human, expression)| Invariant {
            path,
            key,
            is_error: severity == "e",
            human: Box::leak(human.into_boxed_str()),
            expression: Box::leak(expression.into_boxed_str()),
        })
    };
    let mut all: Vec<Invariant> = rows.0.into_iter().flat_map(each).collect();
    all.sort_by_key(|invariant| invariant.path);
    all
}

pub(super) fn profiles() -> Vec<serde_json::Value> {
    serde_json::from_reader(GzDecoder::new(PROFILES)).expect("a definitions file was not packed by compile.py")
}

pub(super) fn r4() -> Definitions {
    let order: Order<'static> = read(ORDER);
    let search: Search<'static> = unpack(SEARCH);
    let type_codes: ByName<TypeCode> = order.types.iter().copied().zip(0..).collect();
    let (code_sets, code_set_places) = code_sets(unpack(CODES));
    let (structures, structure_places) = structures(unpack(STRUCTURES), &type_codes, &code_set_places);
    let mut compartment = vec![Vec::new(); order.types.len()];
    for (name, codes) in search.patient.0 {
        compartment[usize::from(type_codes[name])] = codes;
    }
    let others: Pairs<'static, Pairs<'static, Vec<&'static str>>> = read(COMPARTMENTS);
    let members = |table: Pairs<'static, Vec<&'static str>>| table.0.into_iter().map(|(name, codes)| (type_codes[name], codes)).collect();
    let compartments = others.0.into_iter().map(|(of, table)| (type_codes[of], members(table))).collect();
    let params = params(search.params, &search.shared, &order, &type_codes);
    Definitions {
        types: order.types,
        type_codes,
        codes: order.codes,
        params,
        structures,
        structure_places,
        code_sets,
        code_set_places,
        compartment,
        compartments,
    }
}

/// Where R4 publishes search parameters.
const DEFINITION: &str = "http://hl7.org/fhir/SearchParameter/";

fn params(
    rows: Pairs<'static, Vec<ParamRow<'static>>>,
    shared: &Pairs<'static, Vec<(&'static str, &'static str)>>,
    order: &Order<'static>,
    type_codes: &ByName<TypeCode>,
) -> Vec<Vec<SearchParam>> {
    let code_numbers: HashMap<&str, u16> = order.codes.iter().copied().zip(0..).collect();
    let kind = |code| ParamKind::parse(code).expect("a kind of search parameter");
    let mut params = vec![Vec::new(); order.types.len()];
    for (name, rows) in rows.0 {
        let type_code = type_codes[name];
        let shared = shared.0.iter().find(|(of, _)| *of == name).map_or(&[][..], |(_, ids)| ids);
        let definition = |code: &str| match shared.iter().find(|(of, _)| *of == code) {
            Some((_, id)) => format!("{DEFINITION}{id}"),
            None => format!("{DEFINITION}{name}-{code}"),
        };
        params[usize::from(type_code)] = rows
            .into_iter()
            .map(|ParamRow(code, kind_code, expression, targets, components)| SearchParam {
                id: param_id(type_code, code_numbers[code]),
                code: code.to_owned(),
                kind: kind(kind_code),
                definition: definition(code),
                expression: expression.to_owned(),
                targets: match targets.as_slice() {
                    ["*"] => numbers(&order.types, type_codes),
                    names => numbers(names, type_codes),
                },
                components: components
                    .into_iter()
                    .map(|(code, kind_code, expression)| Component {
                        code: code.to_owned(),
                        kind: kind(kind_code),
                        expression: expression.to_owned(),
                    })
                    .collect(),
            })
            .collect();
    }
    params
}

fn numbers(names: &[&str], type_codes: &ByName<TypeCode>) -> Vec<TypeCode> {
    let mut numbers: Vec<TypeCode> = names.iter().filter_map(|name| type_codes.get(name).copied()).collect();
    numbers.sort_unstable();
    numbers
}

type Places = ByName<usize>;

fn structures(
    rows: Pairs<'static, StructureRow<'static>>,
    type_codes: &ByName<TypeCode>,
    code_sets: &Places,
) -> (Vec<Structure>, ByName<StructureIndex>) {
    let places: ByName<StructureIndex> = rows.0.iter().map(|(name, _)| *name).zip(0..).collect();
    let kind_of = |name: &'static str| match (name, Primitive::parse(name)) {
        (_, Some(primitive)) => ElementKind::Primitive(primitive),
        ("Resource", _) => ElementKind::Resource,
        _ => ElementKind::Structure(places[name]),
    };
    let structures = rows
        .0
        .into_iter()
        .map(|(name, row)| {
            let elements: Vec<Element> = row
                .e
                .into_iter()
                .map(|e| Element {
                    name: e.n.trim_end_matches("[x]"),
                    choice: e.n.ends_with("[x]"),
                    types: e.t.into_iter().map(|name| ElementType { name, kind: kind_of(name) }).collect(),
                    min: e.l,
                    max: (e.u > 0).then_some(e.u),
                    binding: e.b,
                    code_set: e.b.and_then(|url| code_sets.get(url).copied()),
                    extensible: e.x,
                    extensible_set: e.x.and_then(|url| code_sets.get(url).copied()),
                    targets: numbers(&e.r, type_codes),
                })
                .collect();
            let kind = match row.k {
                "r" => StructureKind::Resource,
                "d" => StructureKind::DataType,
                _ => StructureKind::Backbone,
            };
            Structure { name, kind, keys: keys(&elements), elements }
        })
        .collect();
    (structures, places)
}

fn keys(elements: &[Element]) -> ByName<(u16, u16)> {
    let mut keys = ByName::default();
    for (element, at) in elements.iter().zip(0..) {
        for (kind, place) in element.types.iter().zip(0..) {
            let key: &'static str = match element.json_key(kind) {
                Cow::Borrowed(key) => key,
                Cow::Owned(key) => Box::leak(key.into_boxed_str()),
            };
            keys.insert(key, (at, place));
        }
    }
    keys
}

fn code_sets(rows: Pairs<'static, Vec<(&'static str, Vec<&'static str>)>>) -> (Vec<CodeSet>, Places) {
    let places = rows.0.iter().map(|(url, _)| *url).zip(0..).collect();
    let group = |(system, codes): (&'static str, Vec<&'static str>)| CodeGroup { system, set: codes.iter().copied().collect(), codes };
    let sets = rows.0.into_iter().map(|(url, groups)| CodeSet { url, groups: groups.into_iter().map(group).collect() });
    (sets.collect(), places)
}
