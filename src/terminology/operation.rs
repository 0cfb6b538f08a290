//! One door to every operation, so that whoever carries requests needs to know only their names.

use super::expand::ExpandRequest;
use super::lookup::LookupRequest;
use super::subsumes::SubsumesRequest;
use super::translate::TranslateRequest;
use super::validate_code::ValidateCodeRequest;
use super::{Arguments, Terminology, TerminologyError};
use serde_json::Value;

impl Terminology {
    /// Runs operation `name` (with or without its `$`) of a resource type, or of the one instance with `id`, and gives the resource to answer with:
    /// Parameters, or the expanded ValueSet.
    pub fn operate(&self, type_name: &str, id: Option<&str>, name: &str, arguments: &Arguments) -> Result<Value, TerminologyError> {
        let name = name.strip_prefix('$').unwrap_or(name);
        Ok(match (type_name, name) {
            ("ConceptMap", "translate") => self.translate(&TranslateRequest::read(id, arguments)?)?.to_parameters(),
            ("CodeSystem", "lookup") if id.is_none() => self.lookup(&LookupRequest::read(arguments)?)?.to_parameters(),
            ("CodeSystem", "validate-code") => {
                self.validate_code_in_system(&ValidateCodeRequest::read_for_code_system(id, arguments)?)?.to_parameters()
            }
            ("CodeSystem", "subsumes") => self.subsumes(&SubsumesRequest::read(id, arguments)?)?.to_parameters(),
            ("ValueSet", "expand") => self.expand(&ExpandRequest::read(id, arguments)?)?.to_value_set(),
            ("ValueSet", "validate-code") => {
                self.validate_code_in_set(&ValidateCodeRequest::read_for_value_set(id, arguments)?)?.to_parameters()
            }
            _ => return Err(TerminologyError::UnknownOperation { name: format!("{type_name}/${name}") }),
        })
    }
}
