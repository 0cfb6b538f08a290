//! Decimals as FHIRPath compares and reads them.

use rust_decimal::{Decimal, RoundingStrategy};

/// Reads `[+-]digits[.digits]`, and the exponent form that JSON has; no other spelling.
pub fn read_decimal(text: &str) -> Option<Decimal> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let plain = digits.starts_with(|c: char| c.is_ascii_digit()) && digits.ends_with(|c: char| c.is_ascii_digit());
    if !plain || digits.contains('_') {
        return None;
    }
    crate::fhir::decimal::parse(text.strip_prefix('+').unwrap_or(text))
}

/// `~`: equal when both are rounded to the digits of the less precise one.
pub fn decimals_equivalent(a: Decimal, b: Decimal) -> bool {
    let places = a.normalize().scale().min(b.normalize().scale());
    round(a, places) == round(b, places)
}

/// Rounds half away from zero.
pub fn round(value: Decimal, places: u32) -> Decimal {
    value.round_dp_with_strategy(places, RoundingStrategy::MidpointAwayFromZero)
}

/// Text as `~` compares it: lower case, every run of white space one space.
pub fn fold_case(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}
