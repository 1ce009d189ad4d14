//! The supervisor: answers `GET /status`, `/livez`, `/readyz`, `/metrics` and `/bootid` on the health port, runs the
//! probes, and carries the control channel to the host.
//!
//! It owns nothing that a pod depends on. Its standard input is the link to PID 1 ([`link`]), which brings the health port's
//! clients; all else that it knows comes from PID 1's record ([`record`]) and journals ([`journal`]). It may be killed and
//! started again at any moment, and another version of it may take its place.
//!
//! It is linked into PID 1's program, which runs it under the name [`ARGUMENT`]. It knows PID 1 by these three modules
//! alone, and of containers no more than the files of their cgroups.

mod connection;
mod control;
mod growth;
mod grpc;
mod http;
pub mod journal;
pub mod link;
mod lookup;
mod metrics;
#[cfg(test)]
#[path = "../../../tests/support/mutations.rs"]
mod mutations;
mod pod_client;
mod pod_socket;
mod probe_state;
mod prober;
pub mod record;
mod replica;
mod request;
mod server;
mod shipper;
mod time;
mod tls;
pub mod version;

use std::os::fd::AsFd;
use std::process::ExitCode;

use i2kit_spec::status;

use self::http::{Request, Response};
use self::link::Link;
use self::prober::Prober;
use self::record::{Record, VERSION};
use self::server::Server;

/// The program's first argument when it is the supervisor.
pub const ARGUMENT: &str = "supervisor";

/// Serves until it is killed; returns the exit code of a supervisor that cannot.
pub fn run() -> ExitCode {
    // PID 1 blocks signals that it takes by descriptor; here they mean what they usually mean.
    if i2kit_sys::unblock_signals().is_err() {
        return ExitCode::from(73);
    }
    let Ok(socket) = std::io::stdin().as_fd().try_clone_to_owned() else { return ExitCode::from(74) };
    let Ok(prober) = Prober::new() else { return ExitCode::from(76) };
    match Server::new(Link::over(socket), prober).serve(answer) {
        Ok(never) => match never {},
        // PID 1 writes the exit code to the console.
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
        status::PATH => {
            growth::follow();
            let told = metrics::status(record);
            Response::json(&told).with_tag(told.tag())
        }
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
