//! The part of a VM that talks to AWS: only in disks that firmware boots, and only run on EC2.
//!
//! PID 1 runs it several times: `asked` comes when the machine is stopped from outside, and `end`, with the pod's end as its input, last;
//! both tell of it where the pod is of a Job. `boot` comes before the containers: it sets the clock, fetches the values of Secrets, and writes to
//! its output the id of the instance and the index of a Job's machine; it fails where the pod could not run as it should, and
//! where its Job has nothing left to do. `logs` runs beside the
//! containers, keeps the clock right, and sends their lines to `CloudWatch` Logs; when it dies it starts again, and nothing but lines depends on it.
//!
//! A program of its own, because it brings TLS that verifies certificates, which no VM outside of AWS needs.

mod error;
mod http;
mod imds;
mod job;
mod logs;
mod secrets;
mod service;
mod sigv4;
mod time;

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use i2kit_spec::PodEnd;
use i2kit_spec::job::NOTHING_TO_DO;
use i2kit_spec::user_data::UserData;

use crate::error::Error;
use crate::http::Endpoint;
use crate::imds::Metadata;
use crate::job::Begun;
use crate::service::Client;

/// Where PID 1 reads the values of Secrets: a folder a Secret, a file a key.
const SECRETS: &str = "/secrets";

/// The folder of the containers' journals.
const JOURNALS: &str = "/run/i2kit/logs";

/// Where the sender of logs keeps how far it has come: in memory, as the journals.
const SENT: &str = "/run/i2kit/logs-sent.json";

/// How long after its end the sender of logs is started again.
const RESTART: Duration = Duration::from_secs(5);

/// How often the clock is looked at.
const CLOCK: Duration = Duration::from_hours(1);

/// Says that the machine was stopped from outside: by itself at once, and as the second argument of `end`.
const ASKED: &str = "asked";

/// The longest end of a pod that is read; PID 1 cuts it to less.
const MOST_END: u64 = 256 << 10;

fn main() -> ExitCode {
    let argument = std::env::args().nth(1);
    let done = match argument.as_deref() {
        Some("boot") => boot(),
        Some("logs") => keep_shipping(),
        Some("ship") => ship(),
        Some(ASKED) => asked(),
        Some("end") => end(std::env::args().nth(2).as_deref() == Some(ASKED)),
        // Not for people: nothing else than PID 1 starts this program.
        _ => return ExitCode::from(64),
    };
    match done {
        Ok(Done::Well) => ExitCode::SUCCESS,
        Ok(Done::NothingToDo) => ExitCode::from(NOTHING_TO_DO),
        Err(error) => {
            log(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// What came of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Well,
    /// The machine's Job needs it for nothing.
    NothingToDo,
}

/// The console, where PID 1's own lines begin like this.
#[expect(clippy::print_stderr, reason = "PID 1 hands its standard error to the console")]
fn log(text: &str) {
    eprintln!("{}{text}", i2kit_spec::console::GUEST_PREFIX);
}

/// Everything that a pod needs of AWS before it starts. The lines on the output are the instance's id and, of an Indexed Job, its index.
fn boot() -> Result<Done, Error> {
    match time::set_clock() {
        Ok(offset) if offset != 0.0 => log(&format!("the clock was set by {offset:.3} s")),
        Ok(_) => {}
        // The machine's own clock is good enough to start with, and without a time service all there is.
        Err(error) => log(&format!("the clock was not set: {error}")),
    }
    let trust = http::trust();
    let mut metadata = Metadata::new(Arc::clone(&trust));
    let instance = metadata.instance()?;
    let mut index = None;
    if let Some(spec) = metadata.launch()? {
        let mut client = client(metadata, trust, &spec)?;
        secrets::fetch(&mut client, &spec.secrets, Path::new(SECRETS))?;
        // A machine that fails before this has not begun, and counts as no failure of its Job.
        match job::begin(&mut client, &spec, &instance)? {
            Some(Begun::Nothing) => {
                log("its Job has nothing left to do: this machine ends");
                return Ok(Done::NothingToDo);
            }
            Some(Begun::Work(found)) => index = found,
            None => {}
        }
    }
    #[expect(clippy::print_stdout, reason = "PID 1 reads it")]
    {
        println!("{instance}");
        if let Some(index) = index {
            println!("{index}");
        }
    }
    Ok(Done::Well)
}

/// Tells that the pod was asked to stop, where it is of a Job.
fn asked() -> Result<Done, Error> {
    let trust = http::trust();
    let mut metadata = Metadata::new(Arc::clone(&trust));
    let Some(spec) = metadata.launch()?.filter(|spec| spec.job.is_some()) else { return Ok(Done::Well) };
    let instance = metadata.instance()?;
    let mut client = client(metadata, trust, &spec)?;
    job::asked(&mut client, &spec, &instance)?;
    Ok(Done::Well)
}

/// Tells how the pod ended, which its input says, where it is of a Job.
fn end(asked: bool) -> Result<Done, Error> {
    let mut text = String::new();
    std::io::stdin()
        .take(MOST_END)
        .read_to_string(&mut text)
        .map_err(error::io("read the end of the pod"))?;
    let end: PodEnd = serde_json::from_str(&text)
        .map_err(|e| Error::Answer { what: "the end of the pod".into(), reason: e.to_string() })?;
    let trust = http::trust();
    let mut metadata = Metadata::new(Arc::clone(&trust));
    let Some(spec) = metadata.launch()?.filter(|spec| spec.job.is_some()) else { return Ok(Done::Well) };
    let instance = metadata.instance()?;
    let mut client = client(metadata, trust, &spec)?;
    job::end(&mut client, (&spec, &instance), &end, asked)?;
    Ok(Done::Well)
}

fn client(
    mut metadata: Metadata,
    trust: Arc<rustls::ClientConfig>,
    spec: &UserData,
) -> Result<Client, Error> {
    let region = match &spec.region {
        Some(region) => region.clone(),
        None => metadata.region()?,
    };
    let domain = metadata.domain()?;
    let endpoint = spec.endpoint.as_deref().map(|url| {
        Endpoint::parse(url)
            .ok_or_else(|| Error::Answer { what: "user data".into(), reason: format!("endpoint {url}") })
    });
    Ok(Client { metadata, trust, region, domain, endpoint: endpoint.transpose()? })
}

/// Sets the clock again and again: one that drifts by seconds a day is minutes wrong after months, and then no request of this
/// machine is taken any more.
fn keep_time() {
    loop {
        std::thread::sleep(CLOCK);
        match time::set_clock() {
            Ok(offset) if offset.abs() > 1.0 => log(&format!("the clock was set by {offset:.3} s")),
            // Small corrections are what is expected; without an answer the next hour will do.
            Ok(_) | Err(_) => {}
        }
    }
}

/// Runs the sender of logs as a process of its own, again and again: whatever breaks it, the next one begins anew.
fn keep_shipping() -> Result<Done, Error> {
    std::thread::spawn(keep_time);
    loop {
        let program = std::env::current_exe().map_err(error::io("find this program"))?;
        match Command::new(program).arg("ship").status() {
            // There is nothing to send, and there will not be.
            Ok(status) if status.success() => return Ok(Done::Well),
            Ok(_) | Err(_) => std::thread::sleep(RESTART),
        }
    }
}

fn ship() -> Result<Done, Error> {
    let trust = http::trust();
    let mut metadata = Metadata::new(Arc::clone(&trust));
    let instance = metadata.instance()?;
    let Some(spec) = metadata.launch()? else { return Ok(Done::Well) };
    let mut client = client(metadata, trust, &spec)?;
    logs::ship(&mut client, (&spec, &instance), (Path::new(JOURNALS), Path::new(SENT)), log);
    Ok(Done::Well)
}
