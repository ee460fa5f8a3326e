//! Tables of the file as they were written, by which a reload tells what has changed.

use std::fmt;

use toml::{
    Table, Value,
    de::{DeTable, DeValue},
};

/// A table of the file, environment variables not put in. `Debug` shows nothing of it, as secrets may stand there.
#[derive(Clone, Default, PartialEq)]
pub struct Written(Table);

impl Written {
    /// What was read, without its places.
    pub(super) fn of(entries: &DeTable<'_>) -> Self {
        Self(table(entries))
    }

    /// Its keys and values.
    pub(super) fn table(&self) -> &Table {
        &self.0
    }
}

impl From<Table> for Written {
    fn from(table: Table) -> Self {
        Self(table)
    }
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Written")
    }
}

fn table(entries: &DeTable<'_>) -> Table {
    entries.iter().map(|(key, node)| (key.get_ref().to_string(), value(node.get_ref()))).collect()
}

/// A number that is too large for [`Value`], as a size in bytes may be, is kept as its text.
fn value(node: &DeValue<'_>) -> Value {
    match node {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::String(number.to_string()),
        },
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Value::Float(number),
            Err(_) => Value::String(number.to_string()),
        },
        DeValue::Boolean(switch) => Value::Boolean(*switch),
        DeValue::Datetime(date) => Value::Datetime(*date),
        DeValue::Array(nodes) => Value::Array(nodes.iter().map(|node| value(node.get_ref())).collect()),
        DeValue::Table(entries) => Value::Table(table(entries)),
    }
}
