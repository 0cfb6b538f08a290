//! Index rows as both databases hold them: which table, which columns in which order.
//!
//! A table's columns begin with its primary key in key order, so rows sorted by their cells go into the B-tree in order,
//! which is what makes bulk inserts fast.

use super::index::{IndexValue, dimension_system, far_number};
use super::{FacilityKey, IndexEntry, ResourceKey, TypeCode, system_key};
use crate::fhir::text::{clip, comparable};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::{Arc, LazyLock};

/// An interval of at most this many microseconds (32 days) is narrow. A search for "ends after t" then need not look at narrow
/// rows that begin before t minus this, and looks at all the wide ones, which are few.
pub const NARROW: i64 = 32 * 86_400 * 1_000_000;

/// A cell of an index row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Int(i64),
    Real(f64),
    /// Shared with the statement that it is bound to.
    Text(Arc<str>),
}

impl Cell {
    fn text(text: &str) -> Cell {
        // Most columns of most rows that may hold a text hold none.
        static EMPTY: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));
        Cell::Text(if text.is_empty() { Arc::clone(&EMPTY) } else { Arc::from(text) })
    }

    /// A number in the order of [`Cell::compare`], the same for what begins alike.
    fn rank(&self) -> u64 {
        const SIGN: u64 = 1 << 63;
        match self {
            Cell::Int(value) => value.cast_unsigned() ^ SIGN,
            Cell::Real(value) => {
                let bits = value.to_bits();
                if bits & SIGN == 0 { bits | SIGN } else { !bits }
            }
            Cell::Text(text) => text.bytes().chain(std::iter::repeat(0)).take(8).fold(0, |number, byte| number << 8 | u64::from(byte)),
        }
    }

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

/// The place of `date` among them.
const DATE: usize = 4;

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
    /// What decides nearly every comparison, at hand: table, parameter, and how the value begins. It is in the order of [`Row::compare`].
    fn rank(&self) -> (usize, i64, u64) {
        let param = if let Some(Cell::Int(param)) = self.cells.first() { *param } else { 0 };
        let begins = match (self.cells.get(1), self.cells.get(2)) {
            // Of dates the width comes first, and hardly any is wide.
            (Some(Cell::Int(0)), Some(low)) if self.table == DATE => low.rank(),
            (Some(_), _) if self.table == DATE => u64::MAX,
            (value, _) => value.map_or(0, Cell::rank),
        };
        (self.table, param, begins)
    }

    /// Puts rows in the order of their B-trees and drops repeats.
    pub fn sort(rows: &mut Vec<Row>) {
        let mut ranked: Vec<_> = std::mem::take(rows).into_iter().map(|row| (row.rank(), row)).collect();
        ranked.sort_by(|(a, row), (b, other)| a.cmp(b).then_with(|| row.compare(other)));
        *rows = ranked.into_iter().map(|(_, row)| row).collect();
        rows.dedup_by(|a, b| a.compare(b).is_eq());
    }

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
    let table = match value {
        IndexValue::Token { .. } => 0,
        IndexValue::String { .. } => 1,
        IndexValue::Reference { .. } | IndexValue::Within { .. } => 2,
        IndexValue::Uri(_) | IndexValue::Text(_) => 3,
        IndexValue::Date(_) => 4,
        IndexValue::Number(_) => 5,
        IndexValue::Quantity { .. } => 6,
        IndexValue::Composite(_) => 7,
        // What is far away is not further away still.
        IndexValue::Far { .. } => return None,
    };
    let mut cells = Vec::with_capacity(TABLES.get(table)?.columns.len());
    cells.push(param);
    match value {
        IndexValue::Token { system, code } => cells.extend([Cell::text(code), key, Cell::Int(system_cell(system.as_deref()))]),
        IndexValue::String { text } => {
            // Folding may lengthen a text.
            let folded = comparable(text);
            let (folded, exact) = (clip(&folded), clip(text));
            let exact = if folded == exact { "" } else { exact };
            cells.extend([Cell::text(folded), key, Cell::text(exact)]);
        }
        IndexValue::Reference { type_name, id } => cells.extend([Cell::Int(target(type_name, id)?), key]),
        IndexValue::Within { target: 0, .. } | IndexValue::Far { .. } => return None,
        IndexValue::Within { target, .. } => cells.extend([Cell::Int(-target), key]),
        IndexValue::Uri(text) | IndexValue::Text(text) => cells.extend([Cell::text(text), key]),
        IndexValue::Date(interval) => {
            let wide = i64::from(interval.high - interval.low > NARROW);
            cells.extend([Cell::Int(wide), Cell::Int(interval.low), key, Cell::Int(interval.high)]);
        }
        IndexValue::Number(value) => cells.extend([Cell::Real(*value), key]),
        IndexValue::Quantity { value, system, code, unit, .. } => {
            let code = code.as_deref().unwrap_or_default();
            let unit = unit.as_deref().filter(|unit| *unit != code).unwrap_or_default();
            cells.extend([Cell::text(code), Cell::Real(*value), key, Cell::Int(system_cell(system.as_deref())), Cell::text(unit)]);
        }
        IndexValue::Composite(parts) => {
            for place in 0..3 {
                let (code, system, low, high) = parts.get(place).map_or_else(Default::default, component);
                cells.push(Cell::text(&code));
                if place == 0 {
                    cells.push(key.clone());
                }
                cells.extend([Cell::Int(system), Cell::Real(low), Cell::Real(high)]);
            }
        }
    }
    cells.extend([Cell::Int(stamp.since), Cell::Int(0), Cell::Int(stamp.owner), Cell::Int(stamp.patient)]);
    Some(Row { table, cells })
}

/// A component of a composite in the four columns that every kind shares.
fn component(value: &IndexValue) -> (Cow<'_, str>, i64, f64, f64) {
    match value {
        IndexValue::Token { system, code } => (Cow::from(&**code), system_cell(system.as_deref()), 0.0, 0.0),
        IndexValue::String { text } => (clip(&comparable(text)).to_owned().into(), 0, 0.0, 0.0),
        IndexValue::Reference { type_name, id } => (format!("{type_name}/{id}").into(), 0, 0.0, 0.0),
        IndexValue::Uri(uri) => (Cow::from(&**uri), 0, 0.0, 0.0),
        IndexValue::Text(_) | IndexValue::Within { .. } => Default::default(),
        IndexValue::Date(interval) => (Cow::default(), 0, interval.low as f64, interval.high as f64),
        IndexValue::Number(value) => (Cow::default(), 0, *value, *value),
        IndexValue::Quantity { value, system, code, unit, amount } => {
            // A unit without a code is found by its own words.
            let code = Cow::from(code.as_deref().or(unit.as_deref()).unwrap_or_default());
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Few values of each kind, so that many agree in the first columns.
    fn cell(kind: ColumnType) -> BoxedStrategy<Cell> {
        match kind {
            Int => prop_oneof![any::<i64>(), -1_i64..3].prop_map(Cell::Int).boxed(),
            Real => prop_oneof![any::<f64>(), Just(0.0), Just(-0.0), Just(-1.5)].prop_map(Cell::Real).boxed(),
            Text => {
                let letters = proptest::collection::vec(prop_oneof![Just('a'), Just('b'), Just('\0'), Just('é')], 0..11);
                letters.prop_map(|letters| Cell::text(&letters.into_iter().collect::<String>())).boxed()
            }
        }
    }

    fn row() -> impl Strategy<Value = Row> {
        (0..TABLES.len()).prop_flat_map(|table| {
            let cells: Vec<BoxedStrategy<Cell>> = TABLES[table]
                .columns
                .iter()
                .map(|(name, kind)| match *name {
                    "param" => prop_oneof![Just(1_i64), Just(70_000), Just(1 << 60 | 5)].prop_map(Cell::Int).boxed(),
                    "wide" => (0..2_i64).prop_map(Cell::Int).boxed(),
                    _ => cell(*kind),
                })
                .collect();
            cells.prop_map(move |cells| Row { table, cells })
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn rows_are_in_the_order_of_all_their_cells(mut rows in proptest::collection::vec(row(), 0..40)) {
            rows.extend(rows.clone());
            let mut plain = rows.clone();
            plain.sort_by(Row::compare);
            plain.dedup_by(|a, b| a.compare(b).is_eq());
            Row::sort(&mut rows);
            let cells = |rows: &[Row]| rows.iter().map(|row| (row.table, format!("{:?}", row.cells))).collect::<Vec<_>>();
            prop_assert_eq!(cells(&rows), cells(&plain));
        }
    }
}
