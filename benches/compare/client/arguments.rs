//! What the client is told on its command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::{Fallible, scenario::Scenario};

/// Source addresses, unless the command line says otherwise. Each has some 28,000 ports.
const SOURCES: u8 = 16;
const WARM_UP: Duration = Duration::from_millis(500);
const LENGTH: Duration = Duration::from_secs(3);

pub(super) struct Arguments {
    pub(super) scenario: Scenario,
    pub(super) address: SocketAddr,
    /// The certificates that are trusted, in PEM.
    pub(super) ca: Option<PathBuf>,
    pub(super) connections: usize,
    /// How long traffic flows before that.
    pub(super) warm_up: Duration,
    /// How long is measured.
    pub(super) length: Duration,
    /// How many of 127.0.0.1, 127.0.0.2, ... connections come from.
    pub(super) sources: u8,
}

impl Arguments {
    pub(super) fn parse(mut given: impl Iterator<Item = String>) -> Fallible<Self> {
        let scenario: Scenario = given.next().ok_or("a scenario is missing")?.parse()?;
        let (mut address, mut ca) = (None, None);
        let (mut connections, mut sources) = (scenario.connections(), SOURCES);
        let (mut warm_up, mut length) = (WARM_UP, LENGTH);
        while let Some(name) = given.next() {
            let value = given.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--address" => address = Some(value.parse()?),
                "--ca" => ca = Some(value.into()),
                "--connections" => connections = value.parse()?,
                "--warm-up" => warm_up = Duration::try_from_secs_f64(value.parse()?)?,
                "--seconds" => length = Duration::try_from_secs_f64(value.parse()?)?,
                "--source-addresses" => sources = value.parse()?,
                _ => return Err(format!("unknown argument {name}").into()),
            }
        }
        let address = address.ok_or("--address is missing")?;
        Ok(Self { scenario, address, ca, connections, warm_up, length, sources })
    }
}
