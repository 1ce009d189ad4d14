//! What is answered: a path for each thing that the page asks for.

use std::collections::BTreeMap;
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderValue, LOCATION, SET_COOKIE};
use hyper::{Method, Request, StatusCode};

use super::answer::{self, Answer};
use super::changes::Wish;
use super::keys::{Refusal, Verdict};
use super::site::Site;
use super::{changes, page, stream};
use crate::cli::exit::{Exit, Failure};
use crate::manifest::api::Name;
use crate::text;

/// The longest body of a request.
const MAX_BODY: usize = 4096;

/// The time for the body of a request.
const BODY_TIME: Duration = Duration::from_secs(10);

/// The parameters of a URL.
type Query = BTreeMap<String, String>;

impl Site {
    /// Answers a request.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (parts, body) = request.into_parts();
        match self.keys.judge(&parts) {
            Verdict::Enter => self.entered(),
            Verdict::Again => page::again(),
            Verdict::Refuse(refusal) => refused(refusal),
            Verdict::Serve(path) if parts.method == Method::GET => {
                let query = parts.uri.query().unwrap_or_default();
                let query: Query = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
                self.read(&path, &query).await.unwrap_or_else(|failure| failed(&failure))
            }
            Verdict::Serve(path) => match wish(body).await {
                Ok(wish) => self.change(&path, &wish).await.unwrap_or_else(|failure| failed(&failure)),
                Err(answer) => answer,
            },
        }
    }

    /// The cookie, and the way to the page.
    fn entered(&self) -> Answer {
        self.opened.notify_one();
        let mut answer = answer::text(StatusCode::SEE_OTHER, "The dashboard is at another path.");
        let value = |text: String| HeaderValue::try_from(text).expect("keys are letters and digits");
        answer.headers_mut().insert(SET_COOKIE, value(self.keys.cookie()));
        answer.headers_mut().insert(LOCATION, value(self.keys.folder()));
        answer
    }

    async fn read(&self, path: &str, query: &Query) -> Result<Answer, Failure> {
        if let Some(file) = page::file(path) {
            return Ok(file);
        }
        let get = |name: &str| query.get(name).filter(|value| !value.is_empty()).cloned();
        match path {
            "environments" => Ok(answer::json(
                StatusCode::OK,
                &serde_json::json!({
                    "cloud": self.cloud_name(),
                    "current": self.current(),
                    // What is wrong is said where one of them is looked at.
                    "environments": self.environments().await.unwrap_or_else(|_| vec![self.current().to_owned()]),
                }),
            )),
            "watch" => {
                let connected = self.connect(&get("environment").unwrap_or_default()).await?;
                Ok(answer::lines(stream::fleets(connected)))
            }
            "logs" => {
                let connected = self.connect(&get("environment").unwrap_or_default()).await?;
                let group = Name {
                    namespace: get("namespace").unwrap_or_default(),
                    name: get("name").unwrap_or_default(),
                };
                Ok(answer::lines(stream::logs(&connected, group, get("instance"), get("container")).await?))
            }
            _ => Ok(answer::error(StatusCode::NOT_FOUND, "there is nothing at this path")),
        }
    }

    async fn change(&self, path: &str, wish: &Wish) -> Result<Answer, Failure> {
        let connected = self.connect(&wish.environment).await?;
        match path {
            "plan" => Ok(answer::json(StatusCode::OK, &changes::plan(&connected, wish).await?)),
            "change" => {
                Ok(answer::json(StatusCode::OK, &changes::change(connected, &self.running, wish).await?))
            }
            _ => Ok(answer::error(StatusCode::NOT_FOUND, "there is nothing at this path")),
        }
    }
}

/// Refused without a look at the body, and the connection is closed.
fn refused(refusal: Refusal) -> Answer {
    let status = match refusal {
        Refusal::Key => StatusCode::UNAUTHORIZED,
        Refusal::Host | Refusal::Origin => StatusCode::FORBIDDEN,
        Refusal::Form => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Refusal::Method => StatusCode::METHOD_NOT_ALLOWED,
    };
    let mut answer = answer::text(status, refusal.advice());
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// What the body of a request asks for.
async fn wish(body: Incoming) -> Result<Wish, Answer> {
    let read = Limited::new(body, MAX_BODY).collect();
    let read = tokio::time::timeout(BODY_TIME, read).await.map_err(|_| {
        answer::error(StatusCode::REQUEST_TIMEOUT, "the request did not come to its end in time")
    })?;
    let bytes: Bytes = match read {
        Ok(read) => read.to_bytes(),
        Err(error) => return Err(answer::error(StatusCode::PAYLOAD_TOO_LARGE, &error.to_string())),
    };
    serde_json::from_slice(&bytes).map_err(|error| answer::error(StatusCode::BAD_REQUEST, &error.to_string()))
}

/// An error of a verb, with the code that says whose it is.
fn failed(failure: &Failure) -> Answer {
    let status = match failure.exit {
        Exit::Usage => StatusCode::BAD_REQUEST,
        Exit::NotFound => StatusCode::NOT_FOUND,
        Exit::Overtaken => StatusCode::CONFLICT,
        Exit::Cloud => StatusCode::BAD_GATEWAY,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    answer::error(status, &message(failure))
}

/// What went wrong, as it may be shown.
fn message(failure: &Failure) -> String {
    let error = failure.error.as_ref().map(crate::cli::sentence);
    text::visible(&error.unwrap_or_else(|| "it was interrupted".to_owned())).into_owned()
}
