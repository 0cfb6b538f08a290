//! read and vread (<https://hl7.org/fhir/R4/http.html#read>).

use super::super::error::Failure;
use super::Call;
use super::answer::Answer;
use crate::access::Interaction;
use crate::store::TypeCode;

pub async fn read(call: &Call<'_>, type_code: TypeCode, id: &str) -> Result<Answer, Failure> {
    call.require(type_code, Interaction::Read)?;
    let stored = call.state.store.read(type_code, id, &call.caller.scope).await?;
    Answer::of_stored(call.readable(stored)?)
}

pub async fn version(call: &Call<'_>, type_code: TypeCode, id: &str, version: i64) -> Result<Answer, Failure> {
    call.require(type_code, Interaction::Read)?;
    let stored = call.state.store.read_version(type_code, id, version, &call.caller.scope).await?;
    Answer::of_stored(call.readable(stored)?)
}
