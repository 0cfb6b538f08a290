//! Quantities: a decimal and a unit (<http://hl7.org/fhirpath/N1/#quantity>).

use super::temporal::CalendarUnit;
use rust_decimal::Decimal;
use std::cmp::Ordering;
use std::fmt;

/// A value and what it counts.
#[derive(Clone, Debug)]
pub struct Quantity {
    pub value: Decimal,
    pub unit: Unit,
}

/// `4 days` has a calendar unit, `4 'd'` a UCUM code; no unit is the code `1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    Calendar(CalendarUnit),
    Ucum(Box<str>),
}

impl Quantity {
    pub fn new(value: Decimal, code: &str) -> Quantity {
        Quantity { value, unit: Unit::Ucum(code.into()) }
    }

    /// Reads `number`, `number 'code'` or `number keyword`.
    pub fn parse(text: &str) -> Option<Quantity> {
        let text = text.trim();
        let length = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '+' | '-' | '.'))).unwrap_or(text.len());
        let value = super::value::read_decimal(text.get(..length)?)?;
        let rest = text.get(length..)?;
        let unit = rest.trim_start();
        if unit.is_empty() {
            return Some(Quantity::new(value, "1"));
        }
        if let Some(code) = unit.strip_prefix('\'').and_then(|unit| unit.strip_suffix('\'')) {
            return (!code.is_empty()).then(|| Quantity::new(value, code));
        }
        let keyword = CalendarUnit::from_keyword(unit)?;
        (rest.len() > unit.len()).then_some(Quantity { value, unit: Unit::Calendar(keyword) })
    }

    /// The UCUM code; `None` for calendar years and months, which have no fixed length.
    pub fn code(&self) -> Option<&str> {
        match &self.unit {
            Unit::Ucum(code) => Some(code),
            Unit::Calendar(unit) => unit.ucum(),
        }
    }

    /// Both values in one unit; `None` when the units cannot be compared.
    fn in_one_unit(&self, other: &Quantity) -> Option<(Decimal, Decimal)> {
        if self.unit == other.unit {
            return Some((self.value, other.value));
        }
        if let (
            Unit::Calendar(a @ (CalendarUnit::Year | CalendarUnit::Month)),
            Unit::Calendar(b @ (CalendarUnit::Year | CalendarUnit::Month)),
        ) = (&self.unit, &other.unit)
        {
            let months = |value: Decimal, unit: CalendarUnit| match unit {
                CalendarUnit::Year => value.checked_mul(Decimal::from(12)),
                _ => Some(value),
            };
            return Some((months(self.value, *a)?, months(other.value, *b)?));
        }
        let (a, b) = (super::ucum::measure(self.code()?)?, super::ucum::measure(other.code()?)?);
        if a.dimension != b.dimension {
            return None;
        }
        Some((self.value.checked_mul(a.factor)?, other.value.checked_mul(b.factor)?))
    }

    /// `None`: not comparable.
    pub fn compare(&self, other: &Quantity) -> Option<Ordering> {
        let (a, b) = self.in_one_unit(other)?;
        Some(a.cmp(&b))
    }

    /// Whether the units measure the same thing.
    pub fn comparable(&self, other: &Quantity) -> bool {
        self.in_one_unit(other).is_some()
    }

    /// `~`: the same to the precision of the less precise of the two.
    pub fn equivalent(&self, other: &Quantity) -> bool {
        // Calendar years and months are as long as UCUM's here, and only here.
        let long = |quantity: &Quantity| match quantity.unit {
            Unit::Calendar(CalendarUnit::Year) => Quantity::new(quantity.value, "a"),
            Unit::Calendar(CalendarUnit::Month) => Quantity::new(quantity.value, "mo"),
            _ => quantity.clone(),
        };
        let (left, right) = (long(self), long(other));
        if left.unit == right.unit {
            return super::value::decimals_equivalent(left.value, right.value);
        }
        let Some((a, b)) = left.in_one_unit(&right) else { return false };
        let unit = |quantity: &Quantity| {
            let factor = quantity.code().and_then(super::ucum::measure).map_or(Decimal::ONE, |measure| measure.factor);
            Decimal::new(1, quantity.value.scale()).checked_mul(factor)
        };
        match (unit(&left), unit(&right)) {
            (Some(x), Some(y)) => {
                let step = x.max(y);
                let rounded = |value: Decimal| value.checked_div(step).map(|steps| steps.round());
                rounded(a).is_some() && rounded(a) == rounded(b)
            }
            _ => a == b,
        }
    }

    pub fn add(&self, other: &Quantity, sign: i64) -> Option<Quantity> {
        let signed = other.value.checked_mul(Decimal::from(sign))?;
        if self.unit == other.unit {
            return Some(Quantity { value: self.value.checked_add(signed)?, unit: self.unit.clone() });
        }
        let (a, b) = self.in_one_unit(&Quantity { value: signed, unit: other.unit.clone() })?;
        let factor = super::ucum::measure(self.code()?)?.factor;
        let value = a.checked_add(b)?.checked_div(factor)?;
        Some(Quantity { value, unit: self.unit.clone() })
    }

    /// Product (`power` 1) or quotient (`power` -1), in base units.
    pub fn times(&self, other: &Quantity, power: i32) -> Option<Quantity> {
        let (a, b) = (super::ucum::measure(self.code()?)?, super::ucum::measure(other.code()?)?);
        let (left, right) = (self.value.checked_mul(a.factor)?, other.value.checked_mul(b.factor)?);
        let value = if power > 0 { left.checked_mul(right)? } else { left.checked_div(right)? };
        Some(Quantity::new(value, &a.dimension.times(&b.dimension, power)?.code()))
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.unit {
            Unit::Ucum(code) => write!(f, "{} '{code}'", self.value),
            Unit::Calendar(unit) if self.value == Decimal::ONE => write!(f, "{} {}", self.value, unit.keyword()),
            Unit::Calendar(unit) => write!(f, "{} {}s", self.value, unit.keyword()),
        }
    }
}
