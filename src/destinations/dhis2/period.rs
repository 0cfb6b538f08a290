//! DHIS2 period identifiers in the Gregorian calendar.

use crate::measure::ReportPeriod;
use jiff::{Span, civil::Date};

/// The period types that lango pushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeriodType {
    Daily,
    /// ISO weeks, Monday to Sunday.
    Weekly,
    Monthly,
    Quarterly,
    Yearly,
}

impl PeriodType {
    /// Reads `dataSet.periodType`; `None` for the types that lango does not push.
    pub fn parse(name: &str) -> Option<PeriodType> {
        Some(match name {
            "Daily" => PeriodType::Daily,
            "Weekly" => PeriodType::Weekly,
            "Monthly" => PeriodType::Monthly,
            "Quarterly" => PeriodType::Quarterly,
            "Yearly" => PeriodType::Yearly,
            _ => return None,
        })
    }

    /// The period of this type that `day` is in.
    pub fn around(self, day: Date) -> Option<ReportPeriod> {
        let first = match self {
            PeriodType::Daily => day,
            PeriodType::Weekly => day.checked_sub(Span::new().days(i64::from(day.weekday().to_monday_zero_offset()))).ok()?,
            PeriodType::Monthly => day.first_of_month(),
            PeriodType::Quarterly => Date::new(day.year(), (day.month() - 1) / 3 * 3 + 1, 1).ok()?,
            PeriodType::Yearly => day.first_of_year(),
        };
        ReportPeriod::new(first, self.shift(first, 1)?.yesterday().ok()?)
    }

    /// The first day of the period `count` periods after the one that begins on `first`.
    pub fn shift(self, first: Date, count: i32) -> Option<Date> {
        let span = match self {
            PeriodType::Daily => Span::new().try_days(count),
            PeriodType::Weekly => Span::new().try_weeks(count),
            PeriodType::Monthly => Span::new().try_months(count),
            PeriodType::Quarterly => Span::new().try_months(count.checked_mul(3)?),
            PeriodType::Yearly => Span::new().try_years(count),
        };
        first.checked_add(span.ok()?).ok()
    }

    /// The identifier of `period`; `None` unless it is exactly one period of this type.
    pub fn id(self, period: ReportPeriod) -> Option<String> {
        let first = period.first();
        if self.around(first)? != period {
            return None;
        }
        Some(match self {
            PeriodType::Daily => format!("{:04}{:02}{:02}", first.year(), first.month(), first.day()),
            PeriodType::Weekly => format!("{:04}W{}", first.iso_week_date().year(), first.iso_week_date().week()),
            PeriodType::Monthly => format!("{:04}{:02}", first.year(), first.month()),
            PeriodType::Quarterly => format!("{:04}Q{}", first.year(), (first.month() - 1) / 3 + 1),
            PeriodType::Yearly => format!("{:04}", first.year()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(kind: PeriodType, period: &str) -> Option<String> {
        kind.id(ReportPeriod::parse(period).unwrap())
    }

    #[test]
    fn each_type_has_its_own_identifier() {
        use PeriodType::*;
        for (kind, period, expected) in [
            (Daily, "2026-03-15", "20260315"),
            (Weekly, "2026-02-09/2026-02-15", "2026W7"),
            (Weekly, "2026-12-28/2027-01-03", "2026W53"),
            (Weekly, "2024-12-30/2025-01-05", "2025W1"),
            (Monthly, "2026-03", "202603"),
            (Quarterly, "2026-Q4", "2026Q4"),
            (Yearly, "2026", "2026"),
        ] {
            assert_eq!(id(kind, period).as_deref(), Some(expected));
        }
    }

    #[test]
    fn what_is_not_exactly_one_period_has_no_identifier() {
        use PeriodType::*;
        for (kind, period) in [
            (Monthly, "2026-03-01/2026-03-30"),
            (Monthly, "2026-03/2026-04"),
            (Monthly, "2026"),
            (Weekly, "2026-02-08/2026-02-14"),
            (Quarterly, "2026-02/2026-04"),
            (Yearly, "2026-07/2027-06"),
            (Daily, "2026-03"),
        ] {
            assert_eq!(id(kind, period), None, "{period}");
        }
    }

    proptest! {
        #[test]
        fn periods_of_a_type_touch_without_gap_or_overlap(days in 0i64..60_000) {
            let day = jiff::civil::date(1950, 1, 1).checked_add(Span::new().days(days)).unwrap();
            for kind in [PeriodType::Daily, PeriodType::Weekly, PeriodType::Monthly, PeriodType::Quarterly, PeriodType::Yearly] {
                let period = kind.around(day).unwrap();
                prop_assert!(period.contains(day));
                let next = kind.around(period.last().tomorrow().unwrap()).unwrap();
                prop_assert_eq!(next.first(), period.last().tomorrow().unwrap());
                prop_assert_ne!(kind.id(next), kind.id(period));
            }
        }
    }
}
