//! From the file's tables to a [`Config`]: every value parsed, every name looked up.

mod access;
mod admin;
mod auth;
mod effect;
mod listener;
mod proxies;
mod restart;
mod route;
mod server;
mod shadow;
mod together;
pub(super) mod upstream;
pub(super) mod websocket;

use toml::de::DeTable;
use tracing_subscriber::EnvFilter;

use self::{listener::Addresses, upstream::Pools};
use super::{
    AccessLog, Admin, Config, Log, LogFormat, Written,
    file::{Reader, Table, Value},
    keys,
    report::{Finding, nearest, shown},
    values,
};

/// Reads the whole file, for a start or to replace the configuration that is running. `None` only where an error was
/// recorded.
pub(super) fn config<'r>(
    reader: &'r Reader<'r>,
    entries: &'r DeTable<'r>,
    running: Option<&Config>,
) -> Option<Config> {
    let root = Table::open(reader, &keys::ROOT, entries, 0..0);
    let server_table = root.table("server", &keys::SERVER);
    let mut server = server::server(&server_table);
    if let Some(running) = running {
        restart::changes(&server_table, &server, running);
        // Whatever "auto" would be now: what is made for each worker is made for those that there are.
        server.workers = running.server.workers;
    }
    let log = log(&root.table("log", &keys::LOG));
    let listener_tables = tables(&root, "listener", &keys::LISTENER);
    let mut addresses = Addresses::default();
    let listeners = listener_tables.iter().filter_map(|table| listener::listener(table, &mut addresses));
    let listeners: Vec<_> = listeners.collect();
    let pools = Pools::read(&root, &addresses);
    let admin = root.value("admin").map(|value| admin::admin(value, &mut addresses));
    server::judge_upgrade_socket(&server_table, &server, &addresses);
    let route_tables = tables(&root, "route", &keys::ROUTE);
    let routes = route::routes(&route_tables, &pools);
    something_to_do(reader, &root);
    let admin = match admin {
        Some(admin) => Some(admin?),
        None => None,
    };
    let config = Config {
        server,
        log,
        admin,
        listeners,
        upstreams: pools.into_upstreams(),
        routes: routes?,
        tables: Written::of(entries),
        files: reader.files(),
    };
    let config = with_tables(config);
    together::warn(
        &config,
        &together::Tables {
            server: &server_table,
            listeners: &listener_tables,
            routes: &route_tables,
            addresses: &addresses,
        },
    );
    Some(config)
}

/// Reads `[admin]` alone. `None` where it is absent, or an error was recorded.
pub(super) fn admin_alone<'r>(reader: &'r Reader<'r>, entries: &'r DeTable<'r>) -> Option<Admin> {
    let value = Value::of_root(reader, entries, "admin")?;
    admin::admin(value, &mut Addresses::default())
}

/// Gives each part the table that it was written in.
fn with_tables(mut config: Config) -> Config {
    let tables = config.tables.table();
    let of_list = |key: &str, place: usize| tables.get(key)?.get(place)?.as_table().cloned();
    for (place, listener) in config.listeners.iter_mut().enumerate() {
        listener.table = of_list("listener", place).unwrap_or_default().into();
    }
    for (place, route) in config.routes.iter_mut().enumerate() {
        route.table = of_list("route", place).unwrap_or_default().into();
    }
    for upstream in &mut config.upstreams {
        let table = tables.get("upstream").and_then(|upstreams| upstreams.get(&upstream.name)?.as_table());
        upstream.table = table.cloned().unwrap_or_default().into();
    }
    config
}

/// The tables of `[[key]]`.
fn tables<'r>(root: &Table<'r>, key: &'static str, shape: &'static keys::Shape) -> Vec<Table<'r>> {
    let of_list = |value: Value<'r>| {
        if value.node.get_ref().is_table() {
            return Err(value
                .finding(format!("`{key}` must be a list of tables"))
                .help(format!("write its header in two pairs of brackets: `[[{key}]]`")));
        }
        value.list(|element| element.table(shape))
    };
    root.get(key, Vec::new(), of_list)
}

/// Without one of each there is nothing to do.
fn something_to_do(reader: &Reader<'_>, root: &Table<'_>) {
    let absent = |what: &str, example: &str| {
        let finding = Finding::of_file(format!("there is no {what}")).help(format!("for example\n{example}"));
        reader.record(finding.absent());
    };
    let is_absent = |key| root.value(key).is_none_or(|value| value.is_empty());
    if is_absent("listener") {
        absent("listener", "[[listener]]\naddress = \"0.0.0.0:80\"");
    }
    if is_absent("route") {
        absent("route", "[[route]]\nupstream = \"websocket\"");
        if is_absent("upstream") {
            absent("upstream", "[upstream.websocket]\nservers = [\"192.168.1.141:80\"]");
        }
    }
}

fn log(table: &Table<'_>) -> Log {
    const FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let redact = ["token", "access_token", "jwt"].map(str::to_owned).to_vec();
    Log {
        level: table.get("level", "info".to_owned(), level),
        format: table.get("format", LogFormat::Text, values::choice(&FORMATS)),
        access: table.get("access", AccessLog::Stdout, access),
        redact: table.get("redact", redact, |value| value.list(parameter)),
    }
}

fn level(value: Value<'_>) -> Result<String, Finding> {
    let text = value.text()?;
    judge_level(&text).map_err(|finding| finding.at(value.span()))?;
    Ok(text.into_owned())
}

/// Whether this may stand as `log.level`, for who says it outside of a file.
///
/// # Errors
/// What `wsgate check` would say, in a line.
pub fn check_level(text: &str) -> Result<(), String> {
    judge_level(text).map_err(Finding::in_a_line)
}

/// It must be a tracing filter. A bare word must be a level, as tracing would take any other for the name of a module of
/// which everything is logged.
fn judge_level(text: &str) -> Result<(), Finding> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    for directive in text.split(',').map(str::trim) {
        let is_word = !directive.contains(['=', '[', ':']);
        if is_word && !LEVELS.contains(&directive.to_ascii_lowercase().as_str()) {
            return Err(values::unknown_word_of("level", directive, LEVELS.into_iter())
                .help("a module's own level is written like \"info,wsgate::tunnel=debug\""));
        }
    }
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(Finding::of_file(format!("`{}` is not a filter", shown(text)))
            .label(shown(&error.to_string()))
            .help("a level, or modules with levels, like \"info,wsgate::tunnel=debug\"")),
    }
}

fn access(value: Value<'_>) -> Result<AccessLog, Finding> {
    const WORDS: [&str; 3] = ["stdout", "stderr", "off"];
    let text = value.text()?;
    match &*text {
        "stdout" => return Ok(AccessLog::Stdout),
        "stderr" => return Ok(AccessLog::Stderr),
        "off" => return Ok(AccessLog::Off),
        "" => return Err(values::unknown_word(value, "", WORDS.into_iter())),
        _ => {}
    }
    let is_bare = !text.contains(['/', '.']);
    if is_bare && nearest(&text, WORDS).is_some() {
        let help = format!("a file of this name is \"./{}\"", shown(&text));
        return Err(values::unknown_word(value, &text, WORDS.into_iter()).help(help));
    }
    let path = value.reader.path(&text);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if path.is_dir() {
        return Err(value.finding("the access log cannot be a folder").label("expected a file's path"));
    }
    match folder {
        Some(folder) if !folder.is_dir() => Err(value
            .finding(format!("there is no folder for the access log `{}`", shown(&text)))
            .label("the file is made at the start, its folder is not")),
        _ => Ok(AccessLog::File(path)),
    }
}

fn parameter(value: Value<'_>) -> Result<String, Finding> {
    let text = value.text()?;
    if text.is_empty() {
        return Err(value.finding("the name of a query parameter is empty"));
    }
    Ok(text.into_owned())
}
