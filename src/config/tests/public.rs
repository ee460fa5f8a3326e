//! The keys of what faces the internet: their defaults, and values as they are understood.

use std::time::Duration;

use super::{
    super::{keys, *},
    defaults::SMALLEST,
    folder_with_certificates, parse, parse_in, printed,
};

/// The smallest file with these keys of its listener and its route, without a warning.
fn with(listener: &str, route: &str) -> Config {
    let text = SMALLEST.replace("[upstream", &format!("{listener}\n[upstream")) + route;
    let loaded =
        parse_in(folder_with_certificates().path(), &text).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.warnings, []);
    loaded.config
}

fn networks(texts: &[&str]) -> Networks {
    Networks(texts.iter().map(|text| text.parse().unwrap()).collect())
}

fn origins(texts: &[&str]) -> Vec<OriginPattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn defaults_of_who_is_let_in() {
    let config = with("", "");
    let listener = &config.listeners[0];
    assert_eq!(listener.proxy_protocol, None);
    assert_eq!(listener.trusted_proxies, Peers::default());
    assert_eq!(listener.client_ip_header, None);
    assert_eq!(listener.max_connections_per_ip, None);
    assert_eq!(listener.handshake_rate_per_ip, None);
    let route = &config.routes[0];
    assert_eq!(route.subprotocol, None);
    assert_eq!((&route.allow, &route.deny), (&Networks::default(), &Networks::default()));
    assert!(route.auth.is_none());
    assert_eq!(route.max_tunnels, None);
    assert_eq!(route.origins, Origins { allowed: vec![OriginPattern::Any], require: false });
}

#[test]
fn nothing_in_quotes_or_brackets_is_the_default() {
    let listener = "proxy_protocol = \"off\"\nproxy_protocol_from = []\ntrusted_proxies = []\nclient_ip_header = \"\"\n\
                    max_connections_per_ip = \"off\"\nhandshake_rate_per_ip = \"off\"";
    let route = "subprotocol = \"\"\nallow = []\ndeny = []\nlimits = { max_tunnels = \"off\" }\n\
                 websocket = { origins = [\"*\"], require_origin = false }";
    assert_eq!(format!("{:?}", with(listener, route)), format!("{:?}", with("", "")));
}

#[test]
fn keys_of_a_listener_behind_proxies() {
    let config = with(
        "proxy_protocol = \"required\"\nproxy_protocol_from = [\"10.0.0.0/8\", \"unix\", \"::ffff:192.0.2.0/120\"]\n\
         trusted_proxies = [\"192.0.2.7\"]\nclient_ip_header = \"CF-Connecting-IP\"\n\
         max_connections_per_ip = 100\nhandshake_rate_per_ip = \"20/s\"",
        "",
    );
    let listener = &config.listeners[0];
    let from = Peers { networks: networks(&["10.0.0.0/8", "192.0.2.0/24"]), unix: true };
    assert_eq!(listener.proxy_protocol, Some(from));
    assert_eq!(listener.trusted_proxies, Peers { networks: networks(&["192.0.2.7"]), unix: false });
    assert_eq!(listener.client_ip_header.as_deref(), Some("CF-Connecting-IP"));
    assert_eq!(listener.max_connections_per_ip, NonZeroUsize::new(100));
    let rate = Rate { count: 20.try_into().unwrap(), period: Duration::from_secs(1) };
    assert_eq!(listener.handshake_rate_per_ip, Some(rate));
}

#[test]
fn client_certificates_are_required_unless_they_are_optional() {
    let client_auth = |keys: &str| {
        let tls = format!("tls = {{ self_signed = [\"localhost\"]{keys} }}");
        with(&tls, "")
            .listeners
            .remove(0)
            .tls
            .unwrap()
            .client_auth
            .map(|asked| (asked.ca.len(), asked.required))
    };
    assert_eq!(client_auth(""), None);
    assert_eq!(client_auth(", client_ca = \"\""), None);
    assert_eq!(client_auth(", client_ca = \"certs/server.crt\""), Some((1, true)));
    let reversed = ", client_ca = \"certs/reversed.crt\"";
    assert_eq!(client_auth(&format!("{reversed}, client_auth = \"required\"")), Some((2, true)));
    assert_eq!(client_auth(&format!("{reversed}, client_auth = \"optional\"")), Some((2, false)));
}

#[test]
fn keys_of_a_route_about_clients() {
    let route = with(
        "",
        "subprotocol = \"graphql-transport-ws\"\nallow = [\"10.0.0.0/8\", \"2001:db8::/32\"]\ndeny = [\"10.0.0.1\"]\n\
         limits = { max_tunnels = 5_000 }\n\
         websocket = { origins = [\"https://*.example.com\", \"null\"], require_origin = true }",
    )
    .routes
    .remove(0);
    assert_eq!(route.subprotocol.as_deref(), Some("graphql-transport-ws"));
    assert_eq!(
        (route.allow, route.deny),
        (networks(&["10.0.0.0/8", "2001:db8::/32"]), networks(&["10.0.0.1"]))
    );
    assert_eq!(route.max_tunnels, NonZeroUsize::new(5000));
    let allowed = origins(&["https://*.example.com", "null"]);
    assert_eq!(route.origins, Origins { allowed, require: true });
}

#[test]
fn who_is_asked_about_a_request() {
    let auth = |keys: &str| {
        let config = with("trusted_proxies = [\"10.0.0.0/8\"]", &format!("auth = {{ {keys} }}"));
        config.routes.into_iter().next().unwrap().auth.unwrap()
    };
    let both =
        auth("basic = \"users/good\", forward = \"websocket/verify?a=1\", copy_headers = [\"X-User\"]");
    let htpasswd = both.basic.unwrap();
    let mut names: Vec<_> = htpasswd.users.keys().collect();
    names.sort();
    assert_eq!(names, ["ann", "bob"]);
    assert!(htpasswd.path.ends_with("users/good") && htpasswd.users["ann"].starts_with("$2y$10$"));
    assert_eq!(both.forward, Some(ForwardAuth { upstream: 0, path: "/verify?a=1".to_owned() }));
    assert_eq!(both.copy_headers, ["X-User"]);
    let basic = auth("basic = \"users/good\", forward = \"\"");
    assert!(basic.basic.is_some() && basic.forward.is_none() && basic.copy_headers.is_empty());
    let forward = auth("basic = \"\", forward = \"websocket/\"");
    assert!(forward.basic.is_none() && forward.forward.is_some_and(|asked| asked.path == "/"));
}

/// A browser sends credentials along from wherever it is told to connect.
#[test]
fn w14_with_authentication_the_own_origin_is_the_default() {
    let allowed = |keys: &str| {
        with("", &format!("auth = {{ forward = \"websocket/verify\" }}\n{keys}"))
            .routes
            .remove(0)
            .origins
            .allowed
    };
    assert_eq!(allowed(""), [OriginPattern::SameOrigin]);
    assert_eq!(allowed("websocket = { require_origin = true }"), [OriginPattern::SameOrigin]);
    assert_eq!(allowed("websocket = { origins = \"*\" }"), [OriginPattern::Any]);
    assert_eq!(
        allowed("websocket = { origins = [\"https://example.com\"] }"),
        origins(&["https://example.com"])
    );
}

#[test]
fn s7_neither_hashes_nor_passwords_are_shown() {
    let folder = folder_with_certificates();
    let file = |name: &str| format!("{SMALLEST}auth = {{ basic = \"users/{name}\" }}\n");
    let loaded = parse_in(folder.path(), &file("good")).unwrap();
    let debug = format!("{:?}", loaded.config);
    assert!(debug.contains("Htpasswd") && debug.contains("users: 2"), "{debug}");
    let shown =
        ["good", "plain", "sha1", "apr1", "mixed", "twice"].map(|name| printed(folder.path(), &file(name)));
    for text in shown.iter().chain([&debug]) {
        for secret in ["s3cret", "$10$", "$17$", "5Lo0g67", "W6ph5Mm5", "lZL6V", "salt"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

#[test]
fn words_of_other_programs_lead_to_keys_that_exist() {
    let known: Vec<_> = keys::ALL.iter().flat_map(|shape| shape.keys).collect();
    for (word, meant) in keys::FOREIGN {
        let key = meant.rsplit('.').next().unwrap();
        assert!(known.contains(&&key), "{word} leads to {meant}");
    }
}

#[test]
fn passwords_are_fine_where_nobody_else_reads_them() {
    let warned = |listener: &str| {
        let text =
            format!("{listener}\n[upstream.a]\nservers = [\"10.0.0.1:80\"]\n[[route]]\nupstream = \"a\"\n")
                + "auth = { basic = \"users/good\" }\n";
        parse_in(folder_with_certificates().path(), &text).unwrap().warnings.len()
    };
    let listener =
        |address: &str, keys: &str| warned(&format!("[[listener]]\naddress = \"{address}\"\n{keys}"));
    assert_eq!(listener("0.0.0.0:80", ""), 1);
    assert_eq!(listener("[2001:db8::1]:80", "max_connections_per_ip = 10"), 1);
    for address in ["127.0.0.1:80", "[::1]:80", "unix:gate.sock"] {
        assert_eq!(listener(address, ""), 0, "{address}");
    }
    for keys in [
        "redirect_https = 443",
        "tls = { self_signed = [\"localhost\"] }",
        "trusted_proxies = [\"10.0.0.0/8\"]",
        "proxy_protocol = \"required\"\nproxy_protocol_from = [\"10.0.0.0/8\"]",
    ] {
        assert_eq!(listener("0.0.0.0:80", keys), 0, "{keys}");
    }
}

/// No route is blamed for what another file than this would make of it.
#[test]
fn mistakes_beside_each_other_are_told_once() {
    let text = format!(
        "{SMALLEST}auth = {{ basic = \"users/none\" }}\nwebsocket = {{ close_timeout = \"1h\", zzz = 1 }}\n"
    );
    let problems = parse(&text).unwrap_err();
    let messages: Vec<_> = problems.iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(messages, ["cannot read the htpasswd file `users/none`", "unknown key `zzz`"]);
}
