//! `wsgate cert`.

use std::{fmt::Write, path::Path};

use wsgate::tls::development::{Event, Folder, Issued, ServerName};

use super::{Failure, arguments::Cert, say, trust};

pub(super) fn run(arguments: &Cert) -> Result<(), Failure> {
    let folder = Folder::new(&arguments.dir);
    let made = match &arguments.client {
        Some(client) => folder.client(client, arguments.force),
        None if arguments.names.is_empty() => folder.server(&ServerName::localhost(), arguments.force),
        None => folder.server(&arguments.names, arguments.force),
    };
    let issued = made.map_err(Failure::runtime)?;
    for key in &issued.exposed_keys {
        eprintln!("warning: {0} can be read by others; `chmod 600 {0}` keeps them out", trust::shell(key));
    }
    say(report(&issued));
    match &arguments.client {
        Some(_) => say(format_args!("\n{}", trust::client(&issued))),
        None => say(format_args!("\n{}", trust::server(&issued))),
    }
    Ok(())
}

/// What was done, a line for the CA and one for the leaf.
fn report(issued: &Issued) -> String {
    let mut text = line(&issued.ca_event, &issued.ca, "the CA that signs the others");
    let until = issued.identity.not_after.date();
    let what = match issued.identity.names.as_slice() {
        [] => format!("until {until}"),
        names => format!("for {}, until {until}", names.join(", ")),
    };
    text += &line(&issued.leaf_event, &issued.identity.cert, &what);
    if issued.leaf_event != Event::Kept {
        text += &line(&issued.leaf_event, &issued.identity.key, "its key; keep it to yourself");
    }
    text
}

fn line(event: &Event, path: &Path, what: &str) -> String {
    let done = match event {
        Event::Made => "made",
        Event::Renewed(_) => "renewed",
        Event::Kept => "kept",
    };
    let mut text = format!("{done:<8} {} ({what})", path.display());
    if let Event::Renewed(Some(flaw)) = event {
        // Writing to a String does not fail.
        let _ = write!(text, ", because {flaw}");
    }
    text.push('\n');
    text
}
