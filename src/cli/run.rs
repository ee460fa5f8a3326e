//! `wsgate run`.

use wsgate::{config::Config, server::ConfigSource};

use super::{
    Failure,
    arguments::{Ports, Run},
    parse,
    quick::{Port, Quick},
    say, serve,
};

pub(super) fn run(arguments: &Run) -> Result<(), Failure> {
    if arguments.to.is_empty() {
        let loaded = Config::load(&arguments.config).map_err(Failure::usage)?;
        return serve::serve(loaded, ConfigSource::File(arguments.config.clone()), |_| ());
    }
    let Ports { tls, plain } = arguments.ports;
    if (tls, plain) == (Port::Off, Port::Off) {
        return Err(Failure::usage("`--tls off` with `--plain off` leaves nothing to listen on"));
    }
    let text = Quick { backends: &arguments.to, tls, plain, bind: arguments.bind }.text();
    let loaded = parse("wsgate run --to", text.clone()).map_err(Failure::usage)?;
    if arguments.print_config {
        say(text);
        return Ok(());
    }
    serve::serve(loaded, ConfigSource::Own, |_| ())
}
