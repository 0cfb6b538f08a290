//! lango: a FHIR-facing interoperability gateway for health information exchange.
//!
//! Rooms, from the inside out; an inner room never imports an outer one:
//!
//! | room | concern |
//! |---|---|
//! | [`fhir`] | the language: JSON, references, instants and intervals, outcomes |
//! | [`fhirpath`] | parse, compile and evaluate FHIRPath over JSON |
//! | [`definitions`] | R4 structures, search parameters, compartments, value sets |
//! | [`validate`] | every problem of a resource, each with its path |
//! | [`terminology`] | ConceptMap, CodeSystem, ValueSet in memory |
//! | [`store`] | versions, indexes, transactions on SQLite and PostgreSQL |
//! | [`search`] | query string to plan; resource to index entries |
//! | [`registry`] | who is it: source Patients and golden Patients |
//! | [`ingest`] | submissions to canonical resources |
//! | [`access`] | clients, tokens, who owns what is sent |
//! | [`exchange`] | a person's records, from all who hold some |
//! | [`measure`] | records to numbers |
//! | [`outbox`] | durable deliveries |
//! | [`destinations`] | systems that lango pushes to |
//! | [`http`] | routes and content negotiation |
//! | [`cli`] | commands |
#![forbid(unsafe_code)]

pub mod access;
pub mod app;
pub mod cli;
pub mod config;
pub mod definitions;
pub mod destinations;
pub mod exchange;
pub mod fhir;
pub mod fhirpath;
pub mod http;
pub mod ingest;
pub mod measure;
pub mod outbox;
pub mod registry;
pub mod search;
pub mod store;
pub mod terminology;
pub mod validate;
