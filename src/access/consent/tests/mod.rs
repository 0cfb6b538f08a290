//! Tests of the consent decision.

mod table;
