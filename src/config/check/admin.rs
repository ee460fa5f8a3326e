//! `[admin]`.

use crate::config::{Admin, Secret, address, file::Value, keys, report::Finding};

/// Reads the table. `None` only where an error was recorded.
pub(super) fn admin(value: Value<'_>) -> Option<Admin> {
    let table = value.table(&keys::ADMIN).map_err(|finding| value.reader.record(finding)).ok()?;
    let address = table.required("address", "\"127.0.0.1:9900\"", address::listen);
    let token = table.get("token", None, secret);
    let metrics_token = table.get("metrics_token", None, secret);
    let hosts = table.get("hosts", Vec::new(), |value| value.list(host));
    Some(Admin { address: address?, token, metrics_token, hosts })
}

/// A token; \"\" is none.
fn secret(value: Value<'_>) -> Result<Option<Secret>, Finding> {
    let text = value.text()?;
    Ok((!text.is_empty()).then(|| Secret::new(&*text)))
}

fn host(value: Value<'_>) -> Result<String, Finding> {
    Ok(value.text()?.to_ascii_lowercase())
}
