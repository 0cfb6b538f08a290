//! Dates, dateTimes and times with their precision (<http://hl7.org/fhirpath/N1/#datetime>): what is not said is not known,
//! so a comparison may have no answer.

use jiff::civil;
use std::cmp::Ordering;
use std::fmt;

/// Which of FHIRPath's three kinds a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemporalKind {
    Date,
    DateTime,
    Time,
}

/// How much of it is said. Seconds and fractions are one precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
}

/// A Date, DateTime or Time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Temporal {
    pub kind: TemporalKind,
    pub precision: Precision,
    year: i16,
    month: i8,
    day: i8,
    hour: i8,
    minute: i8,
    second: i8,
    nanos: i32,
    /// Digits of the fraction of a second that were said.
    fraction: u8,
    /// Minutes east of UTC.
    offset: Option<i16>,
}

/// A calendar step: what may be added to a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalendarUnit {
    Year,
    Month,
    Week,
    Day,
    Hour,
    Minute,
    Second,
    Millisecond,
}

const UNKNOWN: Temporal = Temporal {
    kind: TemporalKind::DateTime,
    precision: Precision::Year,
    year: 1,
    month: 1,
    day: 1,
    hour: 0,
    minute: 0,
    second: 0,
    nanos: 0,
    fraction: 0,
    offset: None,
};

impl Temporal {
    /// Reads `YYYY[-MM[-DD]]`.
    pub fn parse_date(text: &str) -> Option<Temporal> {
        let (date, rest) = Self::read_date(text)?;
        rest.is_empty().then_some(Temporal { kind: TemporalKind::Date, ..date })
    }

    /// Reads `YYYY[-MM[-DD[Thh[:mm[:ss[.f]]][zone]]]]`; a lone trailing `T` is allowed.
    pub fn parse_date_time(text: &str) -> Option<Temporal> {
        let (date, rest) = Self::read_date(text)?;
        match rest.strip_prefix('T') {
            None => rest.is_empty().then_some(date),
            Some("") => Some(date),
            Some(clock) if date.precision == Precision::Day => {
                let (clock, zone) = match clock.find(['Z', '+', '-']) {
                    Some(at) => (clock.get(..at)?, clock.get(at..)?),
                    None => (clock, ""),
                };
                let offset = match zone {
                    "" => None,
                    "Z" => Some(0),
                    _ => Some(read_offset(zone)?),
                };
                Some(Temporal { offset, ..date.with_clock(clock)? })
            }
            Some(_) => None,
        }
    }

    /// Reads `hh[:mm[:ss[.f]]]`; a leading `T` is allowed.
    pub fn parse_time(text: &str) -> Option<Temporal> {
        let clock = text.strip_prefix('T').unwrap_or(text);
        Some(Temporal { kind: TemporalKind::Time, ..UNKNOWN.with_clock(clock)? })
    }

    /// Reads a literal without its `@`.
    pub fn parse_literal(text: &str) -> Option<Temporal> {
        if text.starts_with('T') {
            Self::parse_time(text)
        } else if text.contains('T') {
            Self::parse_date_time(text)
        } else {
            Self::parse_date(text)
        }
    }

    /// The instant, in the zone with `offset` minutes, to the millisecond.
    pub fn from_zoned(zoned: &jiff::Zoned) -> Temporal {
        let (date, time) = (zoned.date(), zoned.time());
        Temporal {
            kind: TemporalKind::DateTime,
            precision: Precision::Second,
            year: date.year(),
            month: date.month(),
            day: date.day(),
            hour: time.hour(),
            minute: time.minute(),
            second: time.second(),
            nanos: i32::from(time.millisecond()) * 1_000_000,
            fraction: 3,
            offset: Some((zoned.offset().seconds() / 60) as i16),
        }
    }

    fn read_date(text: &str) -> Option<(Temporal, &str)> {
        let year = i16::try_from(number(text.get(..4)?)?).ok().filter(|year| *year > 0)?;
        let mut date = Temporal { year, ..UNKNOWN };
        let mut rest = text.get(4..)?;
        if let Some(month) = rest.strip_prefix('-') {
            date.month = number(month.get(..2)?)? as i8;
            date.precision = Precision::Month;
            rest = month.get(2..)?;
            if let Some(day) = rest.strip_prefix('-') {
                date.day = number(day.get(..2)?)? as i8;
                date.precision = Precision::Day;
                rest = day.get(2..)?;
            }
        }
        civil::Date::new(date.year, date.month, date.day).ok()?;
        Some((date, rest))
    }

    fn with_clock(mut self, text: &str) -> Option<Temporal> {
        self.hour = number(text.get(..2)?)? as i8;
        self.precision = Precision::Hour;
        let mut rest = text.get(2..)?;
        if let Some(minute) = rest.strip_prefix(':') {
            self.minute = number(minute.get(..2)?)? as i8;
            self.precision = Precision::Minute;
            rest = minute.get(2..)?;
            if let Some(second) = rest.strip_prefix(':') {
                self.second = number(second.get(..2)?)? as i8;
                self.precision = Precision::Second;
                rest = second.get(2..)?;
                if let Some(digits) = rest.strip_prefix('.') {
                    let nine: String = digits.chars().chain("000000000".chars()).take(9).collect();
                    self.nanos = i32::try_from(number(&nine)?).ok()?;
                    self.fraction = u8::try_from(digits.len()).ok().filter(|length| *length > 0)?;
                    digits.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
                    rest = "";
                }
            }
        }
        // A leap second is the last second of its minute.
        if self.second == 60 {
            self.second = 59;
        }
        (rest.is_empty() && civil::Time::new(self.hour, self.minute, self.second, self.nanos).is_ok()).then_some(self)
    }

    /// The date alone.
    pub fn date(self) -> Option<Temporal> {
        match self.kind {
            TemporalKind::Time => None,
            _ => Some(Temporal {
                kind: TemporalKind::Date,
                precision: self.precision.min(Precision::Day),
                year: self.year,
                month: self.month,
                day: self.day,
                ..UNKNOWN
            }),
        }
    }

    /// The time alone; `None` when no hour is said.
    pub fn time(self) -> Option<Temporal> {
        (self.precision >= Precision::Hour).then_some(Temporal {
            kind: TemporalKind::Time,
            year: UNKNOWN.year,
            month: UNKNOWN.month,
            day: UNKNOWN.day,
            offset: None,
            ..self
        })
    }

    /// The same date as a dateTime; a dateTime as it is.
    pub fn date_time(self) -> Option<Temporal> {
        (self.kind != TemporalKind::Time).then_some(Temporal { kind: TemporalKind::DateTime, ..self })
    }

    /// Year, month, day, hour, minute, second, millisecond, by name; `None` when it is not said.
    pub fn component(self, at: Precision) -> Option<i64> {
        let first = if self.kind == TemporalKind::Time { Precision::Hour } else { Precision::Year };
        (first <= at && at <= self.precision).then_some(match at {
            Precision::Year => i64::from(self.year),
            Precision::Month => i64::from(self.month),
            Precision::Day => i64::from(self.day),
            Precision::Hour => i64::from(self.hour),
            Precision::Minute => i64::from(self.minute),
            Precision::Second => i64::from(self.second),
        })
    }

    pub fn millisecond(self) -> Option<i64> {
        (self.fraction > 0).then_some(i64::from(self.nanos / 1_000_000))
    }

    /// Minutes east of UTC.
    pub fn offset_minutes(self) -> Option<i64> {
        self.offset.map(i64::from)
    }

    fn fields(self) -> [i32; 7] {
        [self.year.into(), self.month.into(), self.day.into(), self.hour.into(), self.minute.into(), self.second.into(), self.nanos]
    }

    fn civil(self) -> Option<civil::DateTime> {
        civil::DateTime::new(self.year, self.month, self.day, self.hour, self.minute, self.second, self.nanos).ok()
    }

    fn set_civil(self, moment: civil::DateTime) -> Temporal {
        Temporal {
            year: moment.year(),
            month: moment.month(),
            day: moment.day(),
            hour: moment.hour(),
            minute: moment.minute(),
            second: moment.second(),
            nanos: moment.subsec_nanosecond(),
            ..self
        }
    }

    /// The same moment, `minutes` later by the clock.
    fn shifted(self, minutes: i64) -> Option<Temporal> {
        let moment = self.civil()?.checked_add(jiff::SignedDuration::from_mins(minutes)).ok()?;
        Some(self.set_civil(moment))
    }

    /// Order in time. `None`: it cannot be told from what is said. Times do not compare with dates.
    pub fn compare(self, other: Temporal) -> Option<Ordering> {
        if (self.kind == TemporalKind::Time) != (other.kind == TemporalKind::Time) {
            return None;
        }
        let (timed_self, timed_other) = (self.precision >= Precision::Hour, other.precision >= Precision::Hour);
        match (self.offset, other.offset) {
            (Some(a), Some(b)) if a != b => return self.shifted(-i64::from(a))?.compare_fields(other.shifted(-i64::from(b))?),
            // One zone is not said: certain only when every zone gives the same answer.
            (Some(a), None) if timed_other => return self.shifted(-i64::from(a))?.compare_unzoned(other),
            (None, Some(b)) if timed_self => return other.shifted(-i64::from(b))?.compare_unzoned(self).map(Ordering::reverse),
            _ => {}
        }
        self.compare_fields(other)
    }

    fn compare_unzoned(self, other: Temporal) -> Option<Ordering> {
        let earliest = self.compare_fields(other.shifted(-14 * 60)?)?;
        let latest = self.compare_fields(other.shifted(12 * 60)?)?;
        (earliest == latest).then_some(earliest)
    }

    fn compare_fields(self, other: Temporal) -> Option<Ordering> {
        let first = if self.kind == TemporalKind::Time { Precision::Hour } else { Precision::Year } as usize;
        let known = self.precision.min(other.precision) as usize + 1;
        // Second and fraction are one precision.
        let known = if known == 6 { 7 } else { known };
        let pairs = self.fields().into_iter().zip(other.fields()).take(known).skip(first);
        let order = pairs.map(|(a, b)| a.cmp(&b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal);
        if order.is_eq() && self.precision != other.precision { None } else { Some(order) }
    }

    /// `count` whole units later (earlier when negative), the result no more precise than `self`.
    /// `None` when the calendar ends or a Time would need a date.
    pub fn plus(self, count: i64, unit: CalendarUnit) -> Option<Temporal> {
        if self.kind == TemporalKind::Time {
            let nanos = match unit {
                CalendarUnit::Hour => 3_600_000_000_000,
                CalendarUnit::Minute => 60_000_000_000,
                CalendarUnit::Second => 1_000_000_000,
                CalendarUnit::Millisecond => 1_000_000,
                _ => return None,
            };
            let time = civil::Time::new(self.hour, self.minute, self.second, self.nanos).ok()?;
            let time = time.wrapping_add(jiff::SignedDuration::from_nanos(count.checked_mul(nanos)?));
            let moment = civil::Date::new(self.year, self.month, self.day).ok()?.to_datetime(time);
            return Some(self.truncated(self.set_civil(moment)));
        }
        let span = jiff::Span::new();
        // A partial date moves by its own precision: two years and 25 months make two years.
        let (count, unit) = match (self.precision, unit) {
            (Precision::Year, CalendarUnit::Month) => (count / 12, CalendarUnit::Year),
            (Precision::Year, CalendarUnit::Week) => (count.checked_mul(7)? / 365, CalendarUnit::Year),
            (Precision::Year, CalendarUnit::Day) => (count / 365, CalendarUnit::Year),
            (Precision::Month, CalendarUnit::Week) => (count.checked_mul(7)? / 30, CalendarUnit::Month),
            (Precision::Month, CalendarUnit::Day) => (count / 30, CalendarUnit::Month),
            _ => (count, unit),
        };
        let span = match unit {
            CalendarUnit::Year => span.try_years(count),
            CalendarUnit::Month => span.try_months(count),
            CalendarUnit::Week => span.try_weeks(count),
            CalendarUnit::Day => span.try_days(count),
            CalendarUnit::Hour => span.try_hours(count),
            CalendarUnit::Minute => span.try_minutes(count),
            CalendarUnit::Second => span.try_seconds(count),
            CalendarUnit::Millisecond => span.try_milliseconds(count),
        };
        let moment = self.civil()?.checked_add(span.ok()?).ok().filter(|moment| moment.year() > 0)?;
        Some(self.truncated(self.set_civil(moment)))
    }

    /// `moved`, without the fields that `self` does not say.
    fn truncated(self, mut moved: Temporal) -> Temporal {
        let precision = self.precision;
        if precision < Precision::Month {
            moved.month = 1;
        }
        if precision < Precision::Day {
            moved.day = 1;
        }
        if precision < Precision::Hour {
            moved.hour = 0;
        }
        if precision < Precision::Minute {
            moved.minute = 0;
        }
        if precision < Precision::Second {
            (moved.second, moved.nanos) = (0, 0);
        }
        if moved.nanos != 0 && moved.fraction < 3 {
            moved.fraction = 3;
        }
        moved
    }

    /// Digits that are said: 4 for a year, 17 for a dateTime with milliseconds, 9 for such a time.
    pub fn digits(self) -> i64 {
        let digits = match self.precision {
            Precision::Year => 4,
            Precision::Month => 6,
            Precision::Day => 8,
            Precision::Hour => 10,
            Precision::Minute => 12,
            Precision::Second => 14 + i64::from(self.fraction),
        };
        if self.kind == TemporalKind::Time { digits - 8 } else { digits }
    }

    /// The earliest (or, with `high`, the latest) moment that the value may mean, said with `digits` digits.
    pub fn boundary(self, high: bool, digits: i64) -> Option<Temporal> {
        let count = if self.kind == TemporalKind::Time { digits.checked_add(8)? } else { digits };
        let precision = match count {
            4 => Precision::Year,
            6 => Precision::Month,
            8 => Precision::Day,
            10 => Precision::Hour,
            12 => Precision::Minute,
            14..=23 => Precision::Second,
            _ => return None,
        };
        let mut edge = self;
        if high {
            if self.precision < Precision::Month {
                edge.month = 12;
            }
            if self.precision < Precision::Day {
                edge.day = civil::Date::new(edge.year, edge.month, 1).ok()?.days_in_month();
            }
            if self.precision < Precision::Hour {
                edge.hour = 23;
            }
            if self.precision < Precision::Minute {
                edge.minute = 59;
            }
            if self.precision < Precision::Second {
                edge.second = 59;
            }
            if self.fraction == 0 {
                edge.nanos = 999_999_999;
            }
        }
        edge.precision = precision;
        if precision == Precision::Second {
            edge.fraction = u8::try_from(count - 14).ok()?.min(9);
        } else {
            edge.fraction = 0;
        }
        if self.kind == TemporalKind::Date && precision > Precision::Day {
            edge.kind = TemporalKind::DateTime;
        }
        if edge.kind == TemporalKind::DateTime && precision >= Precision::Hour && edge.offset.is_none() {
            edge.offset = Some(if high { -12 * 60 } else { 14 * 60 });
        }
        Some(UNKNOWN.take_from(edge))
    }

    /// `edge` with the fields beyond its precision at their lowest.
    fn take_from(self, edge: Temporal) -> Temporal {
        let unit = 10i32.pow(9 - u32::from(edge.fraction.min(9)));
        let mut cut = edge.truncated(edge);
        cut.nanos -= cut.nanos % unit;
        cut.fraction = edge.fraction;
        if edge.precision < Precision::Hour {
            cut.offset = None;
        }
        cut
    }
}

impl CalendarUnit {
    /// `year`, `years` … and nothing else.
    pub fn from_keyword(word: &str) -> Option<CalendarUnit> {
        Some(match word {
            "year" | "years" => CalendarUnit::Year,
            "month" | "months" => CalendarUnit::Month,
            "week" | "weeks" => CalendarUnit::Week,
            "day" | "days" => CalendarUnit::Day,
            "hour" | "hours" => CalendarUnit::Hour,
            "minute" | "minutes" => CalendarUnit::Minute,
            "second" | "seconds" => CalendarUnit::Second,
            "millisecond" | "milliseconds" => CalendarUnit::Millisecond,
            _ => return None,
        })
    }

    pub fn keyword(self) -> &'static str {
        match self {
            CalendarUnit::Year => "year",
            CalendarUnit::Month => "month",
            CalendarUnit::Week => "week",
            CalendarUnit::Day => "day",
            CalendarUnit::Hour => "hour",
            CalendarUnit::Minute => "minute",
            CalendarUnit::Second => "second",
            CalendarUnit::Millisecond => "millisecond",
        }
    }

    /// The UCUM code of the same length; years and months of the calendar have none.
    pub fn ucum(self) -> Option<&'static str> {
        Some(match self {
            CalendarUnit::Year | CalendarUnit::Month => return None,
            CalendarUnit::Week => "wk",
            CalendarUnit::Day => "d",
            CalendarUnit::Hour => "h",
            CalendarUnit::Minute => "min",
            CalendarUnit::Second => "s",
            CalendarUnit::Millisecond => "ms",
        })
    }
}

impl fmt::Display for Temporal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.kind != TemporalKind::Time {
            write!(f, "{:04}", self.year)?;
            if self.precision >= Precision::Month {
                write!(f, "-{:02}", self.month)?;
            }
            if self.precision >= Precision::Day {
                write!(f, "-{:02}", self.day)?;
            }
            if self.precision >= Precision::Hour {
                f.write_str("T")?;
            }
        }
        if self.precision >= Precision::Hour {
            write!(f, "{:02}", self.hour)?;
        }
        if self.precision >= Precision::Minute {
            write!(f, ":{:02}", self.minute)?;
        }
        if self.precision >= Precision::Second {
            write!(f, ":{:02}", self.second)?;
            if self.fraction > 0 {
                let digits = format!("{:09}", self.nanos);
                write!(f, ".{}", digits.get(..usize::from(self.fraction).min(9)).unwrap_or(&digits))?;
            }
        }
        match self.offset {
            Some(0) => f.write_str("Z"),
            Some(minutes) => {
                let sign = if minutes < 0 { '-' } else { '+' };
                write!(f, "{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
            }
            None => Ok(()),
        }
    }
}

/// Digits only: `parse` alone would take a sign.
fn number(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn read_offset(text: &str) -> Option<i16> {
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = (number(text.get(1..3)?)?, number(text.get(4..)?)?);
    let well_formed = text.len() == 6 && text.get(3..4) == Some(":") && hours <= 14 && minutes < 60;
    well_formed.then(|| sign * (hours * 60 + minutes) as i16)
}
