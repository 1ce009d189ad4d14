//! Answers: their bodies, and the headers that each of them has.

use std::convert::Infallible;

use futures::{Stream, StreamExt as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

/// What an answer consists of.
pub(super) type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Headers of every answer. A page can load nothing from elsewhere, run no script but its own file, make no markup of text,
/// be shown in no other page, and is kept nowhere.
const HEADERS: [(&str, &str); 8] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    ("x-frame-options", "DENY"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=(), usb=()"),
];

fn guard(headers: &mut HeaderMap) {
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
}

/// An answer of that type.
pub(super) fn of(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()).boxed_unsync());
    *answer.status_mut() = status;
    guard(answer.headers_mut());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// A sentence.
pub(super) fn text(status: StatusCode, text: &str) -> Answer {
    of(status, "text/plain; charset=utf-8", format!("{text}\n"))
}

/// A value as JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    of(status, "application/json", serde_json::to_vec(value).expect("answers have only string keys"))
}

/// Why something could not be done, as JSON.
pub(super) fn error(status: StatusCode, message: &str) -> Answer {
    json(status, &serde_json::json!({ "error": message }))
}

/// Lines of JSON as they come.
pub(super) fn lines(lines: impl Stream<Item = Bytes> + Send + 'static) -> Answer {
    let frames = lines.map(|line| Ok(Frame::data(line)));
    let mut answer = Response::new(StreamBody::new(frames).boxed_unsync());
    guard(answer.headers_mut());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    answer
}
