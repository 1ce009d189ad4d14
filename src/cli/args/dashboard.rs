//! Arguments of the verb that serves a page for a browser.

use clap::Args;

/// `dashboard`.
#[derive(Debug, Args)]
pub(in crate::cli) struct DashboardArgs {
    /// Port of 127.0.0.1 [default: a free one]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Open the page in the desktop's browser (xdg-open)
    #[arg(long)]
    pub open: bool,
}
