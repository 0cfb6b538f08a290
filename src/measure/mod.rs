//! Records to numbers: FHIR Measures evaluated over the store in one pass for all facilities.
//!
//! In come a Measure resource (mADX shape, <https://profiles.ihe.net/QRPH/mADX>), the terminology that its groups and value
//! sets name, and the [`Fact`](crate::store::Fact)s that the store streams; out go MeasureReports, one per facility and
//! period, with structural zeros, under ids that stay the same from run to run.
//!
//! [`plan`] lowers a Measure's expressions to one [`FactQuery`](crate::store::FactQuery) and small tables; [`expression`] reads the
//! spellings that can be lowered; [`fold`] counts, without knowing of JSON or the database; [`report`] writes the result as
//! FHIR; [`run`] joins them. What cannot be lowered is an [`Issue`](crate::fhir::Issue) that says so, never a silent zero.
//!
//! This room must never know where a report goes: mapping to DHIS2 is [`crate::destinations`]' concern.

pub mod age;
pub mod expression;
pub mod fold;
pub mod period;
pub mod plan;
pub mod report;
pub mod run;
mod shipped;
mod terms;

pub use period::ReportPeriod;
pub use plan::{MeasurePlan, Terms};
pub use shipped::shipped;

use crate::fhir::Issue;

/// Why a Measure could not be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The Measure or the request asks for what cannot be done; the issues say what to change.
    #[error("the measure or the request cannot be evaluated as it stands")]
    Refused(Vec<Issue>),
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}
