//! The files of the page.

use hyper::StatusCode;

use super::answer::{self, Answer};

const HTML: &str = include_str!("../../../templates/dashboard/dashboard.html");
const STYLE: &str = include_str!("../../../templates/dashboard/dashboard.css");
const SCRIPT: &str = include_str!("../../../templates/dashboard/dashboard.js");
const ICON: &str = include_str!("../../../templates/dashboard/dashboard.svg");

/// What makes a browser ask for the page once more, by itself and so with the cookie.
const AGAIN: &str = "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=0><title>i2kit</title>\
    <link rel=icon href=dashboard.svg><p>The dashboard opens. If it does not, reload this page.</p></html>\n";

/// A file of the page, by its name; the page itself has none.
pub(super) fn file(name: &str) -> Option<Answer> {
    let (kind, text) = match name {
        "" => ("text/html; charset=utf-8", HTML),
        "dashboard.css" => ("text/css; charset=utf-8", STYLE),
        "dashboard.js" => ("text/javascript; charset=utf-8", SCRIPT),
        "dashboard.svg" => ("image/svg+xml", ICON),
        _ => return None,
    };
    Some(answer::of(StatusCode::OK, kind, text))
}

/// The page that asks for the page.
pub(super) fn again() -> Answer {
    answer::of(StatusCode::OK, "text/html; charset=utf-8", AGAIN)
}
