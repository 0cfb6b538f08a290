//! Age bands in the codes of ADX and mADX: `P5Y--P15Y`, lower bound inclusive, upper bound exclusive.

use jiff::civil::Date;

/// One end of a band: an age that is reached on a certain day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    /// Completed calendar months (a year is twelve).
    Months(i32),
    /// Completed days (a week is seven).
    Days(i32),
}

/// A half-open range of ages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgeBand {
    from: Bound,
    below: Bound,
}

impl AgeBand {
    /// Reads `P1Y--P5Y`, `P0D--P28D`, `P2M--P12M`, `P6W--P1Y`. `None` when it is no such code.
    pub fn parse(code: &str) -> Option<AgeBand> {
        let (from, below) = code.split_once("--")?;
        Some(AgeBand { from: Bound::parse(from)?, below: Bound::parse(below)? })
    }

    /// Whether somebody born on `birth` is in the band on `day`. Nobody is before the day of birth.
    pub fn contains(&self, age: Age) -> bool {
        self.from.reached(age) && !self.below.reached(age)
    }
}

impl Bound {
    fn parse(text: &str) -> Option<Bound> {
        let rest = text.strip_prefix('P')?;
        let digits = rest.get(..rest.len().checked_sub(1)?)?;
        if digits.is_empty() || digits.len() > 4 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let count: i32 = digits.parse().ok()?;
        match rest.as_bytes().last()? {
            b'Y' => Some(Bound::Months(count * 12)),
            b'M' => Some(Bound::Months(count)),
            b'W' => Some(Bound::Days(count * 7)),
            b'D' => Some(Bound::Days(count)),
            _ => None,
        }
    }

    fn reached(self, age: Age) -> bool {
        match self {
            Bound::Months(months) => age.months >= months,
            Bound::Days(days) => age.days >= days,
        }
    }
}

/// How old somebody is on a day: negative before birth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    months: i32,
    days: i32,
}

impl Age {
    /// The age on `day` of somebody born on `birth`. Who was born on 29 February turns a year older on 1 March.
    pub fn on(birth: Date, day: Date) -> Age {
        let months = (i32::from(day.year()) - i32::from(birth.year())) * 12 + i32::from(day.month())
            - i32::from(birth.month())
            - i32::from(day.day() < birth.day());
        let days = day.duration_since(birth).as_hours() / 24;
        Age { months, days: i32::try_from(days).unwrap_or(i32::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;
    use proptest::prelude::*;

    #[test]
    fn a_band_begins_on_the_birthday_and_ends_before_the_next() {
        let band = AgeBand::parse("P5Y--P15Y").unwrap();
        let birth = date(2010, 6, 15);
        let inside = |day| band.contains(Age::on(birth, day));
        assert!(!inside(date(2015, 6, 14)));
        assert!(inside(date(2015, 6, 15)));
        assert!(inside(date(2025, 6, 14)));
        assert!(!inside(date(2025, 6, 15)));
    }

    #[test]
    fn days_weeks_and_months_are_counted_in_their_own_unit() {
        let birth = date(2026, 1, 31);
        assert!(AgeBand::parse("P0D--P28D").unwrap().contains(Age::on(birth, date(2026, 2, 27))));
        assert!(!AgeBand::parse("P0D--P28D").unwrap().contains(Age::on(birth, date(2026, 2, 28))));
        assert!(!AgeBand::parse("P0D--P28D").unwrap().contains(Age::on(birth, date(2026, 1, 30))), "not yet born");
        assert!(AgeBand::parse("P2W--P1M").unwrap().contains(Age::on(birth, date(2026, 2, 14))));
        assert!(AgeBand::parse("P1M--P2M").unwrap().contains(Age::on(birth, date(2026, 3, 1))));
    }

    #[test]
    fn what_is_no_band_is_refused() {
        for bad in ["", "P5Y", "P5Y-P10Y", "5Y--10Y", "P5X--P6X", "P--P1Y", "P99999Y--P1Y", "P1Y--Pé"] {
            assert_eq!(AgeBand::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        /// The oracle is the usual one-line rule for completed years.
        #[test]
        fn years_agree_with_the_plain_rule(b in 0i64..40_000, later in -500i64..40_000, low in 0i32..80, width in 1i32..60) {
            let start = date(1920, 1, 1);
            let birth = start.checked_add(jiff::Span::new().days(b)).unwrap();
            let day = birth.checked_add(jiff::Span::new().days(later)).unwrap();
            let years = i32::from(day.year()) - i32::from(birth.year()) - i32::from((day.month(), day.day()) < (birth.month(), birth.day()));
            let band = AgeBand::parse(&format!("P{low}Y--P{}Y", low + width)).unwrap();
            prop_assert_eq!(band.contains(Age::on(birth, day)), years >= low && years < low + width);
        }
    }
}
