//! DHIS2: MeasureReports in, data values out.
//!
//! A push goes in four steps, each a file. [`client`] reads the server's own metadata ([`metadata`]). [`plan`] turns a
//! MeasureReport into exact `dataValueSets` bodies: the [`mapping`] (ConceptMaps) says which data element and category options a
//! group and a stratum are, and the category option combo is the one whose *set* of options is equal; names and codes of combos
//! are never trusted. Whatever does not fit is a problem with its place and its remedy, and nothing is sent. [`client`] sends,
//! and [`verdict`] reads the answer in both dialects of the import (up to 2.42 and from 2.43), conflict by conflict with its cell.
//! [`deliver`] is the outbox's handler around these.
//!
//! A verdict that was understood is final: it is never asked for again. What may go better by itself (5xx, 429, time-outs, a
//! broken connection) is tried again; that is safe because an import of the same values changes nothing.

pub mod client;
mod config;
pub mod deliver;
pub mod mapping;
pub mod metadata;
pub mod period;
pub mod plan;
pub mod verdict;

pub use client::Client;
pub use config::{CATEGORY_OPTION_MAP, DATA_ELEMENT_MAP, DestinationError, Dhis2Destination, ORG_UNIT_MAP};
pub use deliver::{JOB_KIND, MetadataCache, deliver, metadata_for, push_job, read_job};
pub use mapping::Mapping;
pub use metadata::{Dialect, Metadata};
pub use plan::{Cell, PlannedRequest, PushPlan, plan};
pub use verdict::{Conflict, Verdict};
