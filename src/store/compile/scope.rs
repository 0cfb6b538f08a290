//! What a caller may see, as a condition on the columns that every row carries.

use crate::store::gate::{self, Rows};
use crate::store::query::Scope;
use crate::store::sql::Sql;

/// Appends the scope's condition on the rows of an index table (or any with the columns `key`, `owner`, `patient`).
pub fn scope_condition(sql: &mut Sql, alias: &str, scope: &Scope) {
    condition(sql, alias, Rows::Index, scope);
}

/// Appends the scope's condition on rows of `resource` or `history`, which carry their own traits.
pub fn version_condition(sql: &mut Sql, alias: &str, scope: &Scope) {
    condition(sql, alias, Rows::Version, scope);
}

/// Like [`version_condition`], for rows that may be an old version or a delete: to all but its contributor what was deleted never
/// existed, and what is hidden today is hidden with everything that it ever was. A label that comes late protects the past too.
pub fn named_condition(sql: &mut Sql, alias: &str, scope: &Scope) {
    version_condition(sql, alias, scope);
    if let Scope::Gate(_) | Scope::Owners(_) = scope {
        sql.push(&format!(
            " AND ({alias}.live > 0 AND EXISTS (SELECT 1 FROM resource g WHERE g.key = {alias}.key AND g.live > 0 \
             AND (g.version = {alias}.version OR 1 = 1"
        ));
        version_condition(sql, "g", scope);
        sql.push(")) OR ");
        gate::owned(sql, alias, scope.owners());
        sql.push(")");
    }
}

fn condition(sql: &mut Sql, alias: &str, rows: Rows, scope: &Scope) {
    match scope {
        Scope::All => {}
        Scope::Owners(owners) => {
            sql.push(" AND (");
            gate::owned(sql, alias, owners);
            sql.push(&format!(" OR {alias}.patient = 0)"));
        }
        Scope::Gate(gate) => gate::condition(sql, alias, rows, gate),
    }
}
