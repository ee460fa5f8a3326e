//! The configuration as it may be shown (rule S7).

use proptest::prelude::*;

use super::{defaults::SMALLEST, parse};

fn masked(text: &str) -> toml::Table {
    parse(text).unwrap_or_else(|problems| panic!("{problems}")).config.masked()
}

/// What is left of a value at this place of the smallest file.
fn shown(keys: &str, place: &[&str]) -> String {
    let tables = masked(&format!("{SMALLEST}{keys}\n"));
    let mut value = &tables[place[0]];
    for key in &place[1..] {
        value = key.parse::<usize>().map_or_else(|_| &value[*key], |index| &value[index]);
    }
    value.as_str().unwrap().to_owned()
}

#[test]
fn a_file_without_secrets_is_shown_as_it_was_written() {
    let text = format!(
        "{SMALLEST}host = \"${{BACKEND}}.example\"\nrequest_headers.set = {{ X-Tenant = \"blue\" }}\n\
         websocket = {{ idle_timeout = \"1h\", max_frame = 1_000, origins = [\"https://example.com\"] }}\n\
         limits.request_body = 0x10\n[server]\nshutdown_delay = \"5s\"\n[admin]\nhosts = [\"a.example\"]\ntoken = \"\"\n"
    )
    .replace("${BACKEND}", "b");
    assert_eq!(masked(&text), toml::from_str(&text).unwrap());
}

#[test]
fn s7_tokens_and_credentials_are_masked_and_variables_keep_their_names() {
    let token = |text: &str| shown(&format!("[admin]\ntoken = \"{text}\""), &["admin", "token"]);
    assert_eq!(token("0123456789abcdef"), "***");
    assert_eq!(token("${SECRET}0123456789"), "${SECRET}***");
    assert_eq!(token("0123456789$${SECRET}"), "***");
    assert_eq!(token(""), "");
    let header = |name: &str, text: &str| {
        let place = ["route", "0", "request_headers", "set", name];
        shown(&format!("request_headers.set = {{ {name} = \"{text}\" }}"), &place)
    };
    assert_eq!(header("Authorization", "Bearer ${SECRET}"), "***${SECRET}");
    assert_eq!(header("X-Tenant", "blue"), "blue");
    for name in ["authorization", "X-Session-Id", "Cookie", "X-API-Key", "x-my-token", "X-Secret-Sauce"] {
        assert_eq!(header(name, "hunter2"), "***", "{name}");
    }
    let place = ["route", "0", "response_headers", "set", "Set-Cookie"];
    assert_eq!(shown("response_headers.set = { Set-Cookie = \"a=b\" }", &place), "***");
    let check = "[upstream.set]\nservers = [\"10.0.0.1:80\"]\nhash_key = \"path\"\nbalance = \"consistent_hash\"\n\
                 health.headers = { X-Password = \"hunter2\", Origin = \"https://a.example\" }";
    let of_check = |key| shown(check, &["upstream", "set", "health", "headers", key]);
    assert_eq!((of_check("X-Password"), of_check("Origin")), ("***".into(), "https://a.example".into()));
    assert_eq!(shown(check, &["upstream", "set", "hash_key"]), "path");
}

#[test]
fn s7_secrets_in_urls_are_masked() {
    let redirect = |to: &str| {
        let text = SMALLEST.replace("upstream = \"websocket\"", &format!("redirect.to = \"{to}\""));
        masked(&text)["route"][0]["redirect"]["to"].as_str().unwrap().to_owned()
    };
    assert_eq!(redirect("https://ann:pw@a.example/b{path}"), "https://***@a.example/b{path}");
    assert_eq!(redirect("https://ann:${SECRET}@a.example/"), "https://***${SECRET}@a.example/");
    assert_eq!(redirect("https://a.example/@b?c=d@e"), "https://a.example/@b?c=d@e");
    assert_eq!(
        redirect("https://a/?next=https://ann:pw@b;token=c"),
        "https://a/?next=https://***@b;token=***"
    );
    assert_eq!(redirect("https://a.example/?a=1&token=abc&b=2"), "https://a.example/?a=1&token=***&b=2");
    assert_eq!(redirect("/?%74oken=abc;x&Jwt=${SECRET}"), "/?%74oken=***&Jwt=${SECRET}");
    let health = "[upstream.a]\nservers = [\"10.0.0.1:80\"]\nhealth.path = \"/up?sid=1&token=abc\"\n\
                  [log]\nredact = [\"sid\"]";
    assert_eq!(shown(health, &["upstream", "a", "health", "path"]), "/up?sid=***&token=abc");
}

/// A file with a secret at one of the places for them.
fn with_secret(place: usize, secret: &str, beside: &str) -> String {
    let places = [
        format!("[admin]\ntoken = \"{secret}{beside}\""),
        format!("[admin]\nmetrics_token = \"{beside}{secret}\""),
        format!("[admin]\nmetrics_token = \"${{SECRET}}{secret}$${{A}}\""),
        format!("request_headers.set = {{ Authorization = \"Bearer {secret} {beside}\" }}"),
        format!("response_headers.set = {{ Set-Cookie = \"sid={secret}; Path=/{beside}\" }}"),
        format!("request_headers.set = {{ X-Url = \"//{secret}@{beside}.example\" }}"),
        format!(
            "request_headers.set = {{ Location = \"see https://u:{beside}{secret}@a/ and //{secret}@b\" }}"
        ),
        format!("auth.forward = \"websocket/verify?{beside}=1&token={secret}\""),
        format!("auth.forward = \"websocket/verify?a=1;TOKEN={secret}&b={beside}\""),
        format!(
            "strip_prefix = \"/a\"\nvia = \"a\"\nrequest_headers.set = {{ X-{beside}-Key = \"{secret}\" }}"
        ),
        format!(
            "[upstream.b]\nservers = [\"10.0.0.1:80\"]\nhealth.headers = {{ X-Token = \"{secret}{beside}\" }}"
        ),
        format!("[upstream.b]\nservers = [\"10.0.0.1:80\"]\nhealth.path = \"/?jwt={beside}{secret}\""),
    ];
    format!("{SMALLEST}{}\n", places[place % places.len()])
}

proptest! {
    #[test]
    fn s7_no_secret_is_shown(
        place in 0..12_usize,
        secret in "zq[a-zA-Z0-9]{6,20}",
        beside in "[a-z0-9]{1,8}",
    ) {
        let text = with_secret(place, &secret, &beside);
        let shown = masked(&text).to_string();
        prop_assert!(!shown.contains(&secret), "{shown}");
        prop_assert!(shown.contains("***"), "{shown}");
        // Nor what stands for the variable.
        prop_assert!(!shown.contains("s3cret"), "{shown}");
    }
}
