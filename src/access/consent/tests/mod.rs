//! Tests of the consent decision.

mod labels;
mod oracle;
mod table;

use jiff::tz::TimeZone;

/// Our own address.
const BASE: &str = "http://lango/fhir";
const ZONE: TimeZone = TimeZone::UTC;
