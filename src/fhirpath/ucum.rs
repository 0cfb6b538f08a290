//! The part of UCUM that comparisons need (<https://ucum.org/ucum>): codes built of common metric units with prefixes,
//! exponents, `.` and `/`, reduced to a factor and a dimension. Annotations count as 1. A code with anything else in it
//! is a unit of its own kind, comparable with itself only.

use crate::fhir::decimal;
use rust_decimal::Decimal;
use std::borrow::Cow;

/// Exponents over the base units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dimension([i32; BASES.len()]);

/// How many base units one of the unit is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure {
    pub factor: Decimal,
    pub dimension: Dimension,
}

/// Metre, second, gram, radian, kelvin, coulomb, candela as UCUM has them; mole and the arbitrary units are kept apart
/// because nobody wants 1 mol to equal 6.02e23.
const BASES: [&str; 11] = ["m", "s", "g", "rad", "K", "C", "cd", "mol", "[iU]", "[arb'U]", "eq"];

const PREFIXES: [(&str, i32); 16] = [
    ("da", 1),
    ("Y", 24),
    ("Z", 21),
    ("P", 15),
    ("T", 12),
    ("G", 9),
    ("M", 6),
    ("k", 3),
    ("h", 2),
    ("d", -1),
    ("c", -2),
    ("m", -3),
    ("u", -6),
    ("n", -9),
    ("p", -12),
    ("f", -15),
];

/// Units that are not a base: code, whether prefixes apply, and what one is.
const UNITS: [(&str, bool, &str, &str); 34] = [
    ("L", true, "0.001", "m3"),
    ("l", true, "0.001", "m3"),
    ("t", true, "1000000", "g"),
    ("min", false, "60", "s"),
    ("h", false, "3600", "s"),
    ("d", false, "86400", "s"),
    ("wk", false, "604800", "s"),
    ("mo", false, "2629800", "s"),
    ("a", false, "31557600", "s"),
    ("Hz", true, "1", "s-1"),
    ("N", true, "1000", "g.m.s-2"),
    ("Pa", true, "1000", "g.m-1.s-2"),
    ("J", true, "1000", "g.m2.s-2"),
    ("W", true, "1000", "g.m2.s-3"),
    ("A", true, "1", "C.s-1"),
    ("V", true, "1000", "g.m2.s-2.C-1"),
    ("bar", true, "100000000", "g.m-1.s-2"),
    ("kat", true, "1", "mol.s-1"),
    ("U", true, "0.0000000166666666666666666667", "mol.s-1"),
    ("cal", true, "4184", "g.m2.s-2"),
    ("m[H2O]", true, "9806650", "g.m-1.s-2"),
    ("m[Hg]", true, "133322000", "g.m-1.s-2"),
    ("[in_i]", false, "0.0254", "m"),
    ("[ft_i]", false, "0.3048", "m"),
    ("[mi_i]", false, "1609.344", "m"),
    ("[lb_av]", false, "453.59237", "g"),
    ("[oz_av]", false, "28.349523125", "g"),
    ("%", false, "0.01", ""),
    ("[ppth]", false, "0.001", ""),
    ("[ppm]", false, "0.000001", ""),
    ("deg", false, "0.0174532925199432957692369", "rad"),
    ("[IU]", true, "1", "[iU]"),
    ("10*", false, "10", ""),
    ("10^", false, "10", ""),
];

/// What `code` measures; `None` when this table does not know a part of it.
pub fn measure(code: &str) -> Option<Measure> {
    if code.len() > 60 {
        return None;
    }
    let mut result = Measure { factor: Decimal::ONE, dimension: Dimension::default() };
    let mut sign = 1;
    let mut rest = code;
    loop {
        let (term, separator, after) = split_term(rest);
        if !(term.is_empty() && separator == Some('/') && rest.len() == code.len()) {
            let part = term_measure(term, 0)?;
            result = result.times(&part, sign)?;
        }
        match separator {
            None => return Some(result),
            Some(c) => sign = if c == '/' { -1 } else { 1 },
        }
        rest = after;
    }
}

/// A unit whose zero is not nothing, or any other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Added to a value first.
    offset: Decimal,
    pub measure: Measure,
}

impl Scale {
    /// The value in base units.
    pub fn base(&self, value: Decimal) -> Option<Decimal> {
        value.checked_add(self.offset)?.checked_mul(self.measure.factor)
    }

    /// The same for a value that no [`Decimal`] holds.
    pub fn base_of_nearest(&self, value: f64) -> f64 {
        (value + decimal::to_f64(self.offset)) * decimal::to_f64(self.measure.factor)
    }
}

/// The scale that values of the unit `code` stand on: degrees Celsius and Fahrenheit count in kelvin, from its zero on.
pub fn scale(code: &str) -> Option<Scale> {
    let (offset, factor) = match code {
        "Cel" => (Decimal::new(27_315, 2), Decimal::ONE),
        "[degF]" => (Decimal::new(45_967, 2), Decimal::from(5).checked_div(Decimal::from(9))?),
        code => return Some(Scale { offset: Decimal::ZERO, measure: measure(code)? }),
    };
    Some(Scale { offset, measure: Measure { factor, ..measure("K")? } })
}

/// The text before the next `.` or `/` that stands outside brackets and braces.
fn split_term(text: &str) -> (&str, Option<char>, &str) {
    let mut depth = 0i32;
    for (at, c) in text.char_indices() {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth -= 1,
            '.' | '/' if depth == 0 => return (text.get(..at).unwrap_or(""), Some(c), text.get(at + 1..).unwrap_or("")),
            _ => {}
        }
    }
    (text, None, "")
}

fn term_measure(term: &str, depth: u8) -> Option<Measure> {
    let unannotated: Cow<str> = match (term.find('{'), term.ends_with('}')) {
        (Some(0), true) => return Some(Measure { factor: Decimal::ONE, dimension: Dimension::default() }),
        (Some(at), true) => term.get(..at)?.into(),
        _ => term.into(),
    };
    let term = unannotated.as_ref();
    if !term.is_empty() && term.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Measure { factor: term.parse().ok()?, dimension: Dimension::default() });
    }
    // `10*3`: the exponent follows the unit's own digits.
    let name_end = term.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(['-', '+']);
    let (name, exponent) = match term.strip_prefix(name_end)? {
        "" => (term, 1),
        digits => (name_end, digits.strip_prefix('+').unwrap_or(digits).parse::<i32>().ok().filter(|e| e.abs() <= 12)?),
    };
    let unit = unit_measure(name, depth)?;
    let mut result = Measure { factor: Decimal::ONE, dimension: Dimension::default() };
    for _ in 0..exponent.abs() {
        result = result.times(&unit, exponent.signum())?;
    }
    Some(result)
}

fn unit_measure(name: &str, depth: u8) -> Option<Measure> {
    if let Some(unit) = plain_unit(name, depth, false) {
        return Some(unit);
    }
    PREFIXES.iter().find_map(|(prefix, power)| {
        let unit = plain_unit(name.strip_prefix(prefix)?, depth, true)?;
        let step = if *power > 0 { Decimal::TEN } else { Decimal::new(1, 1) };
        let factor = (0..power.abs()).try_fold(unit.factor, |factor, _| factor.checked_mul(step))?;
        Some(Measure { factor, ..unit })
    })
}

fn plain_unit(name: &str, depth: u8, prefixed: bool) -> Option<Measure> {
    if let Some(base) = BASES.iter().position(|base| *base == name) {
        let mut dimension = Dimension::default();
        *dimension.0.get_mut(base)? = 1;
        return Some(Measure { factor: Decimal::ONE, dimension });
    }
    let (_, metric, factor, of) = UNITS.iter().find(|unit| unit.0 == name)?;
    if depth > 0 || (prefixed && !metric) {
        return None;
    }
    let mut result = Measure { factor: factor.parse().ok()?, dimension: Dimension::default() };
    for part in of.split('.').filter(|part| !part.is_empty()) {
        result = result.times(&term_measure(part, depth + 1)?, 1)?;
    }
    Some(result)
}

impl Measure {
    fn times(&self, other: &Measure, power: i32) -> Option<Measure> {
        let factor = if power > 0 { self.factor.checked_mul(other.factor)? } else { self.factor.checked_div(other.factor)? };
        Some(Measure { factor, dimension: self.dimension.times(&other.dimension, power)? })
    }
}

impl Dimension {
    /// The sum of exponents (`power` 1) or their difference (-1).
    pub fn times(&self, other: &Dimension, power: i32) -> Option<Dimension> {
        let mut result = *self;
        for (mine, theirs) in result.0.iter_mut().zip(other.0) {
            *mine = mine.checked_add(theirs.checked_mul(power)?)?;
        }
        Some(result)
    }

    /// The dimension as a UCUM code of base units.
    pub fn code(&self) -> String {
        let term = |(base, exponent): (&&str, &i32)| match exponent {
            0 => None,
            1 => Some((*base).to_owned()),
            _ => Some(format!("{base}{exponent}")),
        };
        let terms: Vec<String> = BASES.iter().zip(&self.0).filter_map(term).collect();
        if terms.is_empty() { "1".to_owned() } else { terms.join(".") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_reduce_to_factor_and_dimension() {
        for (code, other, ratio) in [
            ("g", "mg", "1000"),
            ("mm[Hg]", "Pa", "133.322"),
            ("wk", "d", "7"),
            ("g/dL", "g/L", "10"),
            ("/min", "min-1", "1"),
            ("mmol/L", "mol/m3", "1"),
            ("10*3/uL", "10*9/L", "1"),
            ("kg/m2", "g/m2", "1000"),
            ("{beats}/min", "/min", "1"),
            ("[in_i]", "cm", "2.54"),
        ] {
            let (a, b) = (measure(code).unwrap(), measure(other).unwrap());
            assert_eq!(a.dimension, b.dimension, "{code} {other}");
            assert_eq!((a.factor / b.factor).round_dp(12), ratio.parse::<Decimal>().unwrap(), "{code} {other}");
        }
    }

    #[test]
    fn degrees_are_kelvin_from_another_zero() {
        let kelvin = |code: &str, value: &str| scale(code).unwrap().base(value.parse().unwrap()).unwrap().round_dp(12);
        assert_eq!(kelvin("Cel", "37"), "310.15".parse().unwrap());
        assert_eq!(kelvin("[degF]", "98.6"), kelvin("Cel", "37"));
        assert_eq!(kelvin("K", "1.5"), "1.5".parse().unwrap());
        assert_eq!(scale("Cel").unwrap().measure.dimension, measure("K").unwrap().dimension);
    }

    #[test]
    fn what_is_not_known_measures_nothing() {
        for code in ["", "foo", "Cel", "m//s", "m9999999999", "[s]"] {
            assert_eq!(measure(code), None, "{code}");
        }
    }
}
