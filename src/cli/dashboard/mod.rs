//! `i2kit dashboard`: a page for a browser on this computer. It shows what `status`, `history`, `events`, `top` and `logs`
//! print, and changes as they do; it scales groups, rolls them back and restarts them as the verbs do, once that was confirmed.
//!
//! [`keys`] decides who is let in, [`listeners`] has the addresses, [`server`] the connections and their limits, [`routes`]
//! what is answered, [`view`] what the page shows of a fleet, [`stream`] what it is sent as it happens, [`changes`] what it may
//! change. The page itself is in `templates/dashboard`.

mod answer;
mod changes;
mod keys;
mod listeners;
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

use std::sync::Arc;
use std::time::Duration;

use self::keys::Keys;
use self::listeners::Listeners;
use self::site::Site;
use super::args::DashboardArgs;
use super::context::{Context, desktop_variables};
use super::exit::{Exit, Failure, OrExit as _};
use super::signals::Signals;
use super::{connection, output};
use crate::cloud::Scope;
use crate::report::{self, Format};

/// How long the file for the desktop's browser is there at most.
const OPENING: Duration = Duration::from_mins(1);

/// Serves the page until it is interrupted.
pub(super) async fn run(context: &Context, args: &DashboardArgs) -> Result<Exit, Failure> {
    connection::provider(context)?;
    let mut signals = Signals::listen().and_then(Signals::with_hangup).or_exit(Exit::Failure)?;
    let listeners = Listeners::bind(args.port).await.or_exit(Exit::Failure)?;
    let keys = Keys::random(listeners.port()).or_exit(Exit::Failure)?;
    let url = keys.url();
    match context.format {
        Format::Json => output::json(&serde_json::json!({ "url": url })),
        Format::Text => report::result(&format!("{url}\n")),
    }
    context
        .events
        .note("whoever has this URL may look, scale, roll back and restart; Ctrl-C ends the dashboard");
    let site = Arc::new(Site::new(context.clone(), keys));
    let opened = async {
        if args.open {
            // Deleted when the browser has come by it.
            let file = open::open(&site.keys.url_once(), &desktop_variables(), &context.events);
            drop(tokio::time::timeout(OPENING, site.opened.notified()).await);
            drop(file);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = server::serve(listeners, Arc::clone(&site)) => {}
        () = start(context) => {}
        () = opened => {}
        () = signals.any() => {}
    }
    end(context, &site, &mut signals).await
}

/// Starts what serves the environment, as a verb that reads does; later looks start nothing. The page says what is wrong.
async fn start(context: &Context) {
    if let Ok(cloud) = connection::cloud(context).await {
        drop(cloud.inspect(&Scope::Environment).await);
    }
    std::future::pending::<()>().await;
}

/// Waits for changes under way, which would otherwise be left half done. Another Ctrl-C ends that.
async fn end(context: &Context, site: &Site, signals: &mut Signals) -> Result<Exit, Failure> {
    site.running.close();
    let changes = match site.running.count() {
        0 => return Ok(Exit::Success),
        1 => "a change is".to_owned(),
        several => format!("{several} changes are"),
    };
    context.events.note(format!(
        "{changes} being handed to the cloud, which is waited for; Ctrl-C again ends the dashboard now"
    ));
    tokio::select! {
        () = site.running.ended() => Ok(Exit::Success),
        () = signals.interrupt() => {
            context.events.note("ended half way: what was begun goes on in the cloud, and the same change again does the rest");
            Err(Failure::silent(Exit::Interrupted))
        }
    }
}
