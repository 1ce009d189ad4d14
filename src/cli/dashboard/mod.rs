//! `i2kit dashboard`: a page for a browser on this computer. It shows what `status`, `history`, `events`, `top` and `logs`
//! print, and changes as they do; it scales groups and rolls them back as the verbs do, once that was confirmed.
//!
//! [`keys`] decides who is let in, [`server`] has the connections and their limits, [`routes`] what is answered, [`view`] what
//! the page shows of a fleet, [`stream`] what it is sent as it happens, [`changes`] what it may change. The page itself is
//! in `templates/dashboard`.

mod answer;
mod changes;
mod keys;
mod open;
mod page;
mod routes;
mod server;
mod site;
mod stream;
#[cfg(test)]
mod tests;
mod traffic;
mod view;

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;

use self::keys::Keys;
use self::site::Site;
use super::args::DashboardArgs;
use super::connection;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::signals::Signals;
use crate::report::{self, Format};

/// Serves the page until it is interrupted.
pub(super) async fn run(context: &Context, args: &DashboardArgs) -> Result<Exit, Failure> {
    connection::provider(context)?;
    let mut signals = Signals::listen().or_exit(Exit::Failure)?;
    let listener = bind(args.port).await?;
    let port = listener.local_addr().context("cannot read the port")?.port();
    let keys = Keys::random(port).or_exit(Exit::Failure)?;
    let url = keys.url();
    match context.format {
        Format::Json => report::document(&format!("{}\n", serde_json::json!({ "url": url }))),
        Format::Text => report::result(&format!("{url}\n")),
    }
    context.events.note("whoever has this URL may look, scale and roll back; Ctrl-C ends the dashboard");
    // Deleted when this ends.
    let _redirect = if args.open { open::open(&url, &context.events) } else { None };
    let site = Arc::new(Site::new(context.clone(), keys));
    tokio::select! {
        () = server::serve(listener, site) => {}
        () = signals.any() => {}
    }
    Ok(Exit::Success)
}

/// The port that is asked for, or a free one.
async fn bind(port: Option<u16>) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port.unwrap_or(0))).await;
    let advice = || match port {
        Some(port) => format!(
            "cannot listen on port {port} of 127.0.0.1; give another one with `--port`, or none for a free one"
        ),
        None => "cannot listen on 127.0.0.1".to_owned(),
    };
    bound.with_context(advice).or_exit(Exit::Failure)
}
