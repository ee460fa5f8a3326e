#![no_main]

use libfuzzer_sys::fuzz_target;
use wsgate::config::{Config, Source, summary};

// Whatever is wrong with a file is told, and what is right is summed up, without a panic.
fuzz_target!(|text: &str| {
    let source =
        Source { name: "proxy.toml".to_owned(), text: text.to_owned(), folder: "/nonexistent".into() };
    let env = |name: &str| (name.len() % 2 == 0).then(|| name.to_owned());
    match Config::parse(&source, &env) {
        Ok(loaded) => drop(summary(&loaded.config).to_string()),
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
});
