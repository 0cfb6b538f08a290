//! Decimals with their precision: the number that a text says and the interval that its digits imply
//! (<https://hl7.org/fhir/R4/search.html#number>).

use rust_decimal::Decimal;

/// Reads a FHIR decimal, exponent form included. `None` for what is no number or needs more than 28 digits.
pub fn parse(text: &str) -> Option<Decimal> {
    text.parse::<Decimal>().ok().or_else(|| Decimal::from_scientific(text).ok())
}

/// Half of the last digit's place: `100` gives 0.5, `5.40` gives 0.005, `1e2` gives 50.
pub fn half_unit(text: &str) -> Option<Decimal> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let places = mantissa.split_once('.').map_or(0, |(_, fraction)| fraction.len() as i32) - exponent;
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
    fn half_a_unit_of_the_last_digit() {
        for (text, half) in [("100", "0.5"), ("5.40", "0.005"), ("1e2", "50"), ("1.0e1", "0.5"), ("-7.1", "0.05")] {
            assert_eq!(half_unit(text), parse(half), "{text}");
        }
    }
}
