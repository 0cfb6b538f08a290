//! Decimals with their precision: the number that a text says and the interval that its digits imply
//! (<https://hl7.org/fhir/R4/search.html#number>).

use rust_decimal::Decimal;

/// Reads a FHIR decimal, exponent form included. `None` for what is no number or needs more than 28 digits.
pub fn parse(text: &str) -> Option<Decimal> {
    text.parse::<Decimal>().ok().or_else(|| Decimal::from_scientific(text).ok())
}

/// The longest decimal that is kept, in characters.
const MOST_CHARACTERS: usize = 64;
/// Digits before the point, once the exponent is applied.
const MOST_PLACES: i64 = 28;
/// How small an exponent may be: what is less than a double can tell from zero is no measurement.
const LEAST_EXPONENT: i64 = -300;

/// What [`is_kept`] demands, in words.
pub const LIMITS: &str = "must be less than 10^28 in size, with an exponent from -300 to 28 and 64 characters at most";

/// Whether lango keeps this decimal, the text of a JSON number. R4 sets no bound and asks for 18 digits at least
/// (<https://hl7.org/fhir/R4/datatypes.html#decimal>), and its own examples have `1.000000000000000000E-245`. What is large is bounded by what
/// can be compared exactly; what is small is indexed by its nearest double. Looks at the text only: `1e999999` is never computed.
pub fn is_kept(text: &str) -> bool {
    if text.len() > MOST_CHARACTERS {
        return false;
    }
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let Ok(exponent) = exponent.parse::<i64>() else { return false };
    let whole = mantissa.trim_start_matches('-').split('.').next().unwrap_or_default().trim_start_matches('0');
    (LEAST_EXPONENT..=MOST_PLACES).contains(&exponent) && whole.len() as i64 + exponent <= MOST_PLACES
}

/// Half of the last digit's place: `100` gives 0.5, `5.40` gives 0.005, `1e2` gives 50.
pub fn half_unit(text: &str) -> Option<Decimal> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let places = mantissa.split_once('.').map_or(0, |(_, fraction)| fraction.len() as i32).saturating_sub(exponent);
    match places {
        0..=27 => Some(Decimal::new(5, places as u32 + 1)),
        -27..=-1 => (0..-places).try_fold(Decimal::new(5, 1), |unit, _| unit.checked_mul(Decimal::TEN)),
        _ => None,
    }
}

/// The nearest binary fraction: order-preserving, so that bounds computed exactly may be compared in this form.
pub fn to_f64(value: Decimal) -> f64 {
    use rust_decimal::prelude::ToPrimitive;
    value.to_string().parse().ok().or_else(|| value.to_f64()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_without_end_are_not_kept() {
        let longest = format!("0.{}", "3".repeat(62));
        for text in [
            "0",
            "-7.10",
            "1e+2",
            "12345678901234567890.123456789",
            "1e+27",
            "9999999999999999999999999999",
            "1.000000000000000000E-245",
            &longest,
        ] {
            assert!(is_kept(text), "{text}");
        }
        let longer = format!("0.{}", "3".repeat(63));
        for text in
            ["1e+999999", "1e-999999", "1e-301", "1e+28", "-10e+27", "99999999999999999999999999999", "1e+99999999999999999999", &longer]
        {
            assert!(!is_kept(text), "{text}");
        }
    }

    #[test]
    fn half_a_unit_of_the_last_digit() {
        for (text, half) in [("100", "0.5"), ("5.40", "0.005"), ("1e2", "50"), ("1.0e1", "0.5"), ("-7.1", "0.05")] {
            assert_eq!(half_unit(text), parse(half), "{text}");
        }
    }
}
