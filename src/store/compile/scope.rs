//! What a caller may see, as a condition on the columns `owner` and `patient` that every row carries.

use crate::store::FacilityKey;
use crate::store::query::Scope;
use crate::store::sql::Sql;

/// Appends the scope's condition on the columns of `alias`.
pub fn scope_condition(sql: &mut Sql, alias: &str, scope: &Scope) {
    if let Scope::Owners(owners) = scope {
        sql.push(" AND (");
        owner_list(sql, alias, owners);
        sql.push(&format!(" OR ({alias}.owner = 0 AND {alias}.patient = 0))"));
    }
}

fn owner_list(sql: &mut Sql, alias: &str, owners: &[FacilityKey]) {
    if owners.is_empty() {
        sql.push("1 = 0");
        return;
    }
    sql.push(&format!("{alias}.owner IN ("));
    sql.join(owners, ", ", |sql, owner| {
        sql.int(*owner);
    });
    sql.push(")");
}
