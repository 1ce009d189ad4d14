//! The supervisor: answers `GET /status`, `/livez`, `/readyz`, `/metrics` and `/bootid` on the health port, asks the
//! probes, and speaks for the guest on the control channel.
//!
//! It owns nothing. Its standard input is the link to PID 1, over which it gets the health port's clients; all else that
//! it knows comes from PID 1's record. It may be killed and started again at any moment.

mod ask;
mod control;
mod grpc;
mod http;
mod lookup;
mod metrics;
mod prober;
mod server;
mod shipper;
mod time;
mod tls;
mod track;

use std::os::fd::AsFd;
use std::process::ExitCode;

use i2kit_spec::status;

use self::http::{Request, Response};
use self::prober::Prober;
use self::server::Server;
use crate::link::Link;
use crate::record::{Record, VERSION};
use crate::sys;

/// Serves until it is killed.
pub(crate) fn run() -> ExitCode {
    // PID 1 blocks signals that it takes by descriptor; here they mean what they usually mean.
    if sys::unblock_signals().is_err() {
        return ExitCode::from(73);
    }
    let Ok(socket) = std::io::stdin().as_fd().try_clone_to_owned() else { return ExitCode::from(74) };
    let Ok(prober) = Prober::new() else { return ExitCode::from(76) };
    match Server::new(Link::over(socket), prober).serve(answer) {
        Ok(never) => match never {},
        // The exit code is all that is left to say; PID 1 tells it on the console.
        Err(_) => ExitCode::from(75),
    }
}

fn answer(request: &Request<'_>) -> Response {
    let record = match Record::read() {
        Ok(record) if record.version == VERSION => record,
        Ok(record) => {
            return Response::text(
                503,
                format!("the state record is of version {}, not {VERSION}\n", record.version),
            );
        }
        Err(error) => return Response::text(503, format!("the state record cannot be read: {error}\n")),
    };
    let response = if request.method == "GET" || request.method == "HEAD" {
        route(request.path, &record)
    } else {
        Response::text(405, "only GET and HEAD are answered here\n".into())
    };
    response.with_header("X-I2kit-Boot-Id", record.boot_id)
}

fn route(path: &str, record: &Record) -> Response {
    match path {
        // For our own host; the rest is for balancers and people.
        status::PATH => Response::json(&record.status()),
        "/livez" => Response::text(200, "ok\n".into()),
        "/readyz" => match record.unready() {
            reasons if reasons.is_empty() => Response::text(200, "ok\n".into()),
            reasons => Response::text(503, reasons.join("\n") + "\n"),
        },
        "/metrics" => Response::metrics(metrics::render(record, &metrics::Usage::read(record))),
        "/bootid" => Response::text(200, format!("{}\n", record.boot_id)),
        _ => Response::text(404, "there are /status, /livez, /readyz, /metrics and /bootid\n".into()),
    }
}
