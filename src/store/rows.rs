//! Index rows as both databases hold them: which table, which columns in which order.
//!
//! A table's columns begin with its primary key in key order, so rows sorted by their cells go into the B-tree in order,
//! which is what makes bulk inserts fast.

use super::index::{IndexValue, dimension_system, far_number};
use super::{FacilityKey, IndexEntry, ResourceKey, TypeCode, system_key};
use crate::fhir::text::{clip, comparable};
use std::cmp::Ordering;

/// An interval of at most this many microseconds (32 days) is narrow. A search for "ends after t" then need not look at narrow
/// rows that begin before t minus this, and looks at all the wide ones, which are few.
pub const NARROW: i64 = 32 * 86_400 * 1_000_000;

/// A cell of an index row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Int(i64),
    Real(f64),
    Text(Box<str>),
}

impl Cell {
    fn compare(&self, other: &Cell) -> Ordering {
        match (self, other) {
            (Cell::Int(a), Cell::Int(b)) => a.cmp(b),
            (Cell::Real(a), Cell::Real(b)) => a.total_cmp(b),
            (Cell::Text(a), Cell::Text(b)) => a.cmp(b),
            _ => Ordering::Equal,
        }
    }
}

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    Int,
    Real,
    Text,
}

/// An index table; `columns` in primary key order, then `until`, `owner`, `patient`.
#[derive(Debug)]
pub struct Table {
    pub name: &'static str,
    pub columns: &'static [(&'static str, ColumnType)],
}

use ColumnType::{Int, Real, Text};

/// All index tables; a row names its table by its place here.
pub const TABLES: [Table; 8] = [
    Table {
        name: "token",
        columns: &[
            ("param", Int),
            ("code", Text),
            ("key", Int),
            ("system", Int),
            ("since", Int),
            ("until", Int),
            ("owner", Int),
            ("patient", Int),
        ],
    },
    Table {
        name: "string",
        columns: &[
            ("param", Int),
            ("folded", Text),
            ("key", Int),
            ("exact", Text),
            ("since", Int),
            ("until", Int),
            ("owner", Int),
            ("patient", Int),
        ],
    },
    Table {
        name: "reference",
        columns: &[("param", Int), ("target", Int), ("key", Int), ("since", Int), ("until", Int), ("owner", Int), ("patient", Int)],
    },
    Table {
        name: "uri",
        columns: &[("param", Int), ("uri", Text), ("key", Int), ("since", Int), ("until", Int), ("owner", Int), ("patient", Int)],
    },
    Table {
        name: "date",
        columns: &[
            ("param", Int),
            ("wide", Int),
            ("low", Int),
            ("key", Int),
            ("high", Int),
            ("since", Int),
            ("until", Int),
            ("owner", Int),
            ("patient", Int),
        ],
    },
    Table {
        name: "number",
        columns: &[("param", Int), ("value", Real), ("key", Int), ("since", Int), ("until", Int), ("owner", Int), ("patient", Int)],
    },
    Table {
        name: "quantity",
        columns: &[
            ("param", Int),
            ("code", Text),
            ("value", Real),
            ("key", Int),
            ("system", Int),
            ("unit", Text),
            ("since", Int),
            ("until", Int),
            ("owner", Int),
            ("patient", Int),
        ],
    },
    Table {
        name: "composite",
        columns: &[
            ("param", Int),
            ("code1", Text),
            ("key", Int),
            ("system1", Int),
            ("low1", Real),
            ("high1", Real),
            ("code2", Text),
            ("system2", Int),
            ("low2", Real),
            ("high2", Real),
            ("code3", Text),
            ("system3", Int),
            ("low3", Real),
            ("high3", Real),
            ("since", Int),
            ("until", Int),
            ("owner", Int),
            ("patient", Int),
        ],
    },
];

/// Cells after the primary key's value cells: since, until, owner, patient.
pub const TRAILER: usize = 4;

/// One row of one index table.
#[derive(Clone, Debug)]
pub struct Row {
    /// Place in [`TABLES`].
    pub table: usize,
    pub cells: Vec<Cell>,
}

impl Row {
    pub fn compare(&self, other: &Row) -> Ordering {
        self.table.cmp(&other.table).then_with(|| {
            self.cells.iter().zip(&other.cells).map(|(a, b)| a.compare(b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
        })
    }
}

/// What every row of a resource carries.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    pub key: ResourceKey,
    pub since: i64,
    pub owner: FacilityKey,
    pub patient: ResourceKey,
}

/// The row for `entry`. `target` gives the key of a referenced resource; `None` leaves the entry out.
pub fn row(entry: &IndexEntry, stamp: Stamp, target: &mut dyn FnMut(&str, &str) -> Option<ResourceKey>) -> Option<Row> {
    let (param, value) = match &entry.value {
        IndexValue::Far { place, value } => (far_number(entry.param, *place), &**value),
        value => (i64::from(entry.param), value),
    };
    let param = Cell::Int(param);
    let key = Cell::Int(stamp.key);
    let (table, mut cells) = match value {
        IndexValue::Token { system, code } => (0, vec![param, Cell::Text(code.clone()), key, Cell::Int(system_cell(system.as_deref()))]),
        IndexValue::String { text } => {
            // Folding may lengthen a text.
            let folded = comparable(text);
            let (folded, exact) = (clip(&folded), clip(text));
            let exact = if folded == exact { "" } else { exact };
            (1, vec![param, Cell::Text(folded.into()), key, Cell::Text(exact.into())])
        }
        IndexValue::Reference { type_name, id } => (2, vec![param, Cell::Int(target(type_name, id)?), key]),
        // What is far away is not further away still.
        IndexValue::Within { target: 0, .. } | IndexValue::Far { .. } => return None,
        IndexValue::Within { target, .. } => (2, vec![param, Cell::Int(-target), key]),
        IndexValue::Uri(uri) => (3, vec![param, Cell::Text(uri.clone()), key]),
        IndexValue::Text(text) => (3, vec![param, Cell::Text(text.clone()), key]),
        IndexValue::Date(interval) => {
            let wide = i64::from(interval.high - interval.low > NARROW);
            (4, vec![param, Cell::Int(wide), Cell::Int(interval.low), key, Cell::Int(interval.high)])
        }
        IndexValue::Number(value) => (5, vec![param, Cell::Real(*value), key]),
        IndexValue::Quantity { value, system, code, unit, .. } => {
            let code: Box<str> = code.clone().unwrap_or_default();
            let unit = unit.clone().filter(|unit| **unit != *code).unwrap_or_default();
            (6, vec![param, Cell::Text(code), Cell::Real(*value), key, Cell::Int(system_cell(system.as_deref())), Cell::Text(unit)])
        }
        IndexValue::Composite(parts) => {
            let mut cells = vec![param];
            for place in 0..3 {
                let (code, system, low, high) = parts.get(place).map_or_else(Default::default, component);
                cells.push(Cell::Text(code));
                if place == 0 {
                    cells.push(key.clone());
                }
                cells.extend([Cell::Int(system), Cell::Real(low), Cell::Real(high)]);
            }
            (7, cells)
        }
    };
    cells.extend([Cell::Int(stamp.since), Cell::Int(0), Cell::Int(stamp.owner), Cell::Int(stamp.patient)]);
    Some(Row { table, cells })
}

/// A component of a composite in the four columns that every kind shares.
fn component(value: &IndexValue) -> (Box<str>, i64, f64, f64) {
    match value {
        IndexValue::Token { system, code } => (code.clone(), system_cell(system.as_deref()), 0.0, 0.0),
        IndexValue::String { text } => (clip(&comparable(text)).into(), 0, 0.0, 0.0),
        IndexValue::Reference { type_name, id } => (format!("{type_name}/{id}").into(), 0, 0.0, 0.0),
        IndexValue::Uri(uri) => (uri.clone(), 0, 0.0, 0.0),
        IndexValue::Text(_) | IndexValue::Within { .. } => Default::default(),
        IndexValue::Date(interval) => (Box::default(), 0, interval.low as f64, interval.high as f64),
        IndexValue::Number(value) => (Box::default(), 0, *value, *value),
        IndexValue::Quantity { value, system, code, unit, amount } => {
            // A unit without a code is found by its own words.
            let code = code.clone().or_else(|| unit.clone()).unwrap_or_default();
            match amount.as_deref() {
                Some((dimension, amount)) => (code, system_key(&dimension_system(dimension)), *value, *amount),
                None => (code, system_cell(system.as_deref()), *value, *value),
            }
        }
        IndexValue::Composite(_) | IndexValue::Far { .. } => Default::default(),
    }
}

fn system_cell(system: Option<&str>) -> i64 {
    system.map_or(0, system_key)
}

/// What is known of a resource's identity before a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub key: ResourceKey,
    pub version: i64,
    pub live: bool,
    pub owner: FacilityKey,
    pub patient: ResourceKey,
}

/// The columns that [`identity`] reads, of the table `r`.
pub const IDENTITY: &str = "r.key, r.type, r.id, r.version, r.live, r.owner, r.patient";

pub type IdentityRow = (i64, i64, String, i64, i64, i64, i64);

pub fn identity((key, type_code, id, version, live, owner, patient): IdentityRow) -> (Name, Identity) {
    let type_code = TypeCode::try_from(type_code).unwrap_or(TypeCode::MAX);
    ((type_code, id.into()), Identity { key, version, live: live > 0, owner, patient })
}

/// A resource's type and id, as a map key.
pub type Name = (TypeCode, Box<str>);
