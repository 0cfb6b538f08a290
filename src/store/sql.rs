//! SQL text with its arguments. Values are always bound; text is only ever written by this room, never taken from input,
//! which is why [`Sql::text`] may be asserted safe in the one place that runs it.

/// Which server the text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Sqlite,
    Postgres,
}

/// A bound value.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    Int(i64),
    Real(f64),
    Text(String),
    Bytes(Vec<u8>),
}

/// A statement being written.
#[derive(Clone, Debug)]
pub struct Sql {
    pub dialect: Dialect,
    pub text: String,
    pub args: Vec<Arg>,
    one_plan: bool,
    /// It is several in one, which are planned together.
    several: bool,
    /// What the sets are of that the statement looks up at its beginning; their names are their places.
    sets: Vec<i64>,
}

impl Sql {
    pub fn new(dialect: Dialect) -> Self {
        Sql { dialect, text: String::new(), args: Vec::new(), one_plan: false, several: false, sets: Vec::new() }
    }

    /// For several statements that are asked as one.
    pub fn several(dialect: Dialect) -> Self {
        Sql { several: true, ..Sql::new(dialect) }
    }

    /// Whether its best plan is the same for all values, so that PostgreSQL plans it once a connection.
    pub fn is_planned_once(&self) -> bool {
        self.one_plan
    }

    /// Says so before the parts are written that are put differently for it.
    pub fn plan_once(&mut self, fits: bool) {
        self.one_plan = fits && !self.several;
    }

    /// Appends text as it stands.
    pub fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Appends a placeholder and binds its value. Placeholders are numbered, so text may be put before others later.
    pub fn bind(&mut self, arg: Arg) -> &mut Self {
        self.args.push(arg);
        self.text.push(if self.dialect == Dialect::Sqlite { '?' } else { '$' });
        self.text.push_str(&self.args.len().to_string());
        self
    }

    /// The name of a set that the statement looks up once, at its beginning, however often it asks for it. `define` writes the statement
    /// that gives it, the first time that `key` is asked for.
    pub fn set(&mut self, key: i64, define: impl FnOnce(&mut Sql)) -> String {
        let known = self.sets.iter().position(|known| *known == key);
        let name = format!("set_{}", known.unwrap_or(self.sets.len()));
        if known.is_none() {
            self.sets.push(key);
            let text = std::mem::take(&mut self.text);
            define(self);
            let definition = std::mem::take(&mut self.text);
            // A statement may already begin with names of its own; they may rest on this one.
            let rest = match text.strip_prefix("WITH ") {
                Some(more) => format!(", {more}"),
                None => format!(" {text}"),
            };
            self.text = format!("WITH {name} AS MATERIALIZED ({definition}){rest}");
        }
        name
    }

    pub fn int(&mut self, value: i64) -> &mut Self {
        self.bind(Arg::Int(value))
    }

    /// An integer of lango's own making, written into the text so that the planner sees it.
    pub fn literal(&mut self, value: i64) -> &mut Self {
        self.text.push_str(&value.to_string());
        self
    }

    pub fn real(&mut self, value: f64) -> &mut Self {
        self.bind(Arg::Real(value))
    }

    pub fn str(&mut self, value: &str) -> &mut Self {
        self.bind(Arg::Text(value.to_owned()))
    }

    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.bind(Arg::Bytes(value.to_owned()))
    }

    /// Appends `IN` these numbers. On PostgreSQL they are one value, so that the text is the same however many they are.
    pub fn one_of(&mut self, numbers: &[i64]) -> &mut Self {
        match self.dialect {
            Dialect::Sqlite => {
                self.push("IN (");
                self.join(numbers, ", ", |sql, number| {
                    sql.literal(*number);
                });
                self.push(")")
            }
            Dialect::Postgres => self.push("= ANY (").array(numbers.iter().copied()).push(")"),
        }
    }

    /// Appends numbers as one value of PostgreSQL.
    pub fn array(&mut self, numbers: impl Iterator<Item = i64>) -> &mut Self {
        let text: Vec<String> = numbers.map(|number| number.to_string()).collect();
        self.push("CAST(").str(&format!("{{{}}}", text.join(","))).push(" AS BIGINT[])")
    }

    /// Appends `part` for each item with `separator` between.
    pub fn join<T>(&mut self, items: impl IntoIterator<Item = T>, separator: &str, mut part: impl FnMut(&mut Self, T)) -> &mut Self {
        for (place, item) in items.into_iter().enumerate() {
            if place > 0 {
                self.push(separator);
            }
            part(self, item);
        }
        self
    }
}

/// Binds all of `$args` to `$query`, whichever database it is for.
macro_rules! bind_all {
    ($query:expr, $args:expr) => {{
        let mut query = $query;
        for arg in $args {
            query = match arg {
                crate::store::sql::Arg::Int(value) => query.bind(value),
                crate::store::sql::Arg::Real(value) => query.bind(value),
                crate::store::sql::Arg::Text(value) => query.bind(value),
                crate::store::sql::Arg::Bytes(value) => query.bind(value),
            };
        }
        query
    }};
}
pub(super) use bind_all;
