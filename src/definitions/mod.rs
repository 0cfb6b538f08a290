//! What FHIR R4 (4.0.1) says there is: resource types, elements, search parameters, code lists, compartments.
//!
//! [`r4`] gives the tables, unpacked once from the compact files in `r4/` that `compile.py` makes of HL7's own definitions.
//! Three kinds of question come in: what is this JSON key of that type ([`Definitions::structure`]), which search parameters
//! has this type and how is each extracted ([`Definitions::params`]), is this code in that required binding
//! ([`Definitions::code_set`]). All answers are borrowed for ever and cost a hash or a binary search.
//!
//! Databases hold numbers instead of names: a [`TypeCode`] is a place in `order.json`'s list of types, and a [`ParamId`] is
//! `type << 12 | place in its list of parameter codes`. Both lists are therefore append-only: a new name goes to the end, none
//! is ever removed or moved; `compile.py` keeps to that and a test pins the places.
//!
//! This room must never know a resource, a database or a request. What a parameter's expression means is for [`crate::fhirpath`].

mod load;
mod search;
mod structure;

pub use crate::store::{ParamId, TypeCode};
pub use search::{Component, ParamKind, SearchParam, param_id};
pub use structure::{
    CodeGroup, CodeSet, Element, ElementKind, ElementType, Invariant, Primitive, Structure, StructureIndex, StructureKind,
};

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

/// A table by R4's own names. Nobody else puts anything in, so a quick hash will do: these are asked for every element of what comes.
type ByName<V> = HashMap<&'static str, V, foldhash::fast::FixedState>;

/// The same of names alone.
type NameSet = HashSet<&'static str, foldhash::fast::FixedState>;

/// The tables of one FHIR version.
#[derive(Debug)]
pub struct Definitions {
    types: Vec<&'static str>,
    type_codes: ByName<TypeCode>,
    codes: Vec<&'static str>,
    /// By type, each sorted by code.
    params: Vec<Vec<SearchParam>>,
    structures: Vec<Structure>,
    structure_places: ByName<StructureIndex>,
    code_sets: Vec<CodeSet>,
    code_set_places: ByName<usize>,
    /// Of Patients, by type.
    compartment: Vec<Vec<&'static str>>,
    /// The others.
    compartments: HashMap<TypeCode, HashMap<TypeCode, Vec<&'static str>>>,
}

/// FHIR R4; the first call unpacks the tables (a few tens of milliseconds).
pub fn r4() -> &'static Definitions {
    static R4: LazyLock<Definitions> = LazyLock::new(load::r4);
    &R4
}

/// R4's own constraints, sorted by path; unpacked at the first call.
pub fn r4_invariants() -> &'static [Invariant] {
    static INVARIANTS: LazyLock<Vec<Invariant>> = LazyLock::new(load::invariants);
    &INVARIANTS
}

/// R4's own extensions and profiles as StructureDefinitions with a differential, cut down to what a validator needs.
pub fn r4_profiles() -> Vec<serde_json::Value> {
    load::profiles()
}

impl Definitions {
    /// The number of a concrete resource type.
    pub fn type_code(&self, name: &str) -> Option<TypeCode> {
        self.type_codes.get(name).copied()
    }

    /// The name of a resource type; "" for a number that none has.
    pub fn type_name(&self, code: TypeCode) -> &'static str {
        self.types.get(usize::from(code)).copied().unwrap_or_default()
    }

    /// Every concrete resource type, in the order of its [`TypeCode`]: the place is the code.
    pub fn resource_types(&self) -> &[&'static str] {
        &self.types
    }

    /// The search parameters of a type, those of Resource and DomainResource included, sorted by code.
    pub fn params(&self, type_code: TypeCode) -> &[SearchParam] {
        self.params.get(usize::from(type_code)).map_or(&[], Vec::as_slice)
    }

    /// The search parameter of a type with this code (`_id`, `patient`), without modifier or chain.
    pub fn param(&self, type_code: TypeCode, code: &str) -> Option<&SearchParam> {
        let params = self.params(type_code);
        params.binary_search_by(|param| param.code.as_str().cmp(code)).ok().and_then(|at| params.get(at))
    }

    /// The search parameter with this number.
    pub fn param_by_id(&self, id: ParamId) -> Option<&SearchParam> {
        let (type_code, code) = search::take_apart(id);
        self.param(type_code, self.codes.get(code)?)
    }

    /// The elements of a resource, datatype or backbone element: `Patient`, `HumanName`, `Patient.contact`. `None` for primitives.
    pub fn structure(&self, name: &str) -> Option<&Structure> {
        self.structure_places.get(name).and_then(|place| self.structure_at(*place))
    }

    /// The structure that an [`ElementKind::Structure`] names.
    pub fn structure_at(&self, place: StructureIndex) -> Option<&Structure> {
        self.structures.get(usize::from(place))
    }

    /// The codes of a bound value set, by its canonical URL with or without `|version`. `None` for value sets that no element of R4
    /// binds as required or extensible, for those that cannot be listed (languages, MIME types, UCUM units, currencies), and for
    /// long ones that no element requires.
    pub fn code_set(&self, url: &str) -> Option<&CodeSet> {
        let url = url.split('|').next().unwrap_or(url);
        self.code_set_places.get(url).and_then(|place| self.code_sets.get(*place))
    }

    /// Every code list of a required binding.
    pub fn code_sets(&self) -> &[CodeSet] {
        &self.code_sets
    }

    /// The code list that [`Element::code_set`] names.
    pub fn code_set_at(&self, place: usize) -> Option<&CodeSet> {
        self.code_sets.get(place)
    }

    /// The parameters by which a resource of this type is in a patient's compartment
    /// (<https://hl7.org/fhir/R4/compartmentdefinition-patient.html>); empty when it is in none.
    pub fn patient_compartment(&self, type_code: TypeCode) -> &[&'static str] {
        self.compartment.get(usize::from(type_code)).map_or(&[], Vec::as_slice)
    }

    /// The parameters by which a resource of type `member` is in the compartment of a resource of type `of`
    /// (<https://hl7.org/fhir/R4/compartmentdefinition.html>); `None`: it never is, or there is no such compartment. The list may be
    /// empty where the resource that defines the compartment is its only member of that type.
    pub fn compartment(&self, of: TypeCode, member: TypeCode) -> Option<&[&'static str]> {
        match self.compartments.get(&of) {
            Some(members) => members.get(&member).map(Vec::as_slice),
            None if self.type_name(of) == "Patient" => Some(self.patient_compartment(member)).filter(|params| !params.is_empty()),
            None => None,
        }
    }

    /// Whether a resource of this type defines a compartment that it is itself in. A Device is not among its own things.
    pub fn is_in_own_compartment(&self, type_code: TypeCode) -> bool {
        self.compartment(type_code, type_code).is_some()
    }
}

#[cfg(test)]
mod tests;
