//! Nothing that stands in a file makes the reading of it panic.

use std::time::Duration;

use proptest::prelude::*;

use super::{super::Rate, defaults::SMALLEST, parse};
use crate::proto::network::{Network, NetworkError};

const FILE: &str = include_str!("../../../proxy.toml");

/// Reads a text and shows what came of it.
fn read(text: &str) {
    match parse(text) {
        Ok(loaded) => {
            let _ = super::summary_at(&loaded.config, super::NOW).to_string();
        }
        Err(problems) => assert!(problems.iter().count() > 0 && !problems.to_string().is_empty()),
    }
}

/// proxy.toml with its keys uncommented, cut where a character begins.
fn cut(text: &str, at: prop::sample::Index) -> usize {
    let places: Vec<_> = text.char_indices().map(|(at, _)| at).collect();
    places[at.index(places.len())]
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        read(&text);
    }

    #[test]
    fn no_mutation_of_a_good_file_panics(
        at in any::<prop::sample::Index>(),
        length in 0..40_usize,
        put in "[a-z0-9\\[\\]{}\"'=.,#$:/\\\\ \n\u{e9}\u{1f980}-]{0,12}",
    ) {
        let mut text = super::example::uncommented(FILE);
        let start = cut(&text, at);
        let end = text[start..].char_indices().nth(length).map_or(text.len(), |(at, _)| start + at);
        text.replace_range(start..end, &put);
        read(&text);
    }

    #[test]
    fn a_rate_is_read_as_it_is_written(count in 1_u32.., period in prop::sample::select(vec![1, 60, 3600])) {
        let rate = Rate { count: count.try_into().unwrap(), period: Duration::from_secs(period) };
        let file = format!("{SMALLEST}websocket.message_rate = \"{rate}\"\n");
        prop_assert_eq!(parse(&file).unwrap().config.routes[0].websocket.message_rate, Some(rate));
    }

    #[test]
    fn a_network_is_read_as_it_is_shown(address in any::<std::net::IpAddr>(), prefix in 0..=128_u8) {
        // A range of IPv6 that is wider than the addresses of IPv4 in it has none of them.
        let address = address.to_canonical();
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = prefix.min(most);
        let network = match format!("{address}/{bits}").parse::<Network>() {
            Ok(network) | Err(NetworkError::HostBits(network)) => network,
            Err(NetworkError::Malformed) => panic!("{address}/{bits} is a network"),
        };
        prop_assert!(network.contains(address) && network.includes(&network));
        let file = format!("{SMALLEST}allow = [\"{network}\"]\n");
        prop_assert_eq!(&parse(&file).unwrap().config.routes[0].allow.0, &vec![network]);
    }

    #[test]
    fn no_value_of_any_key_panics(
        key in prop::sample::select(super::super::keys::ALL.iter().flat_map(|shape| shape.keys).collect::<Vec<_>>()),
        value in "(\"[^\"\\\\\n]{0,12}\"|-?[0-9]{1,20}|\\[[^\n]{0,6}\\]|\\{\\}|true|1979-05-27)",
    ) {
        for shape in super::super::keys::ALL {
            let header = shape.header.replace("NAME", "a");
            read(&format!("{header}\n{key} = {value}\n"));
        }
    }
}
