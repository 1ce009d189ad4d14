//! Errors of AWS in one form: the call, the code and the text, and what to do about them.

use std::error::Error;

use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::cloud::CloudError;

/// The adapter of `map_err` for a call of that name.
pub(super) fn failed<E, R>(operation: &'static str) -> impl FnOnce(SdkError<E, R>) -> CloudError
where
    E: ProvideErrorMetadata + Error + 'static,
    R: std::fmt::Debug,
{
    move |error| {
        let (code, message) = match &error {
            SdkError::ServiceError(service) => {
                let error = service.err();
                (error.code().unwrap_or("Unknown").to_owned(), error.message().unwrap_or_default().to_owned())
            }
            other => ("NoAnswer".to_owned(), causes(other)),
        };
        let (advice, transient) = (advice(&code).into(), is_transient(&code));
        CloudError::Api { operation: operation.to_owned(), code, message, advice, transient }
    }
}

/// The code of a service's error.
pub(super) fn code<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> &str {
    match error {
        SdkError::ServiceError(service) => service.err().code().unwrap_or_default(),
        _ => "",
    }
}

/// Whether a call was refused for who made it. What is gone has no tags any more by which a policy could allow the call: a
/// deletion whose answer was lost is refused so when it is asked for again.
pub(super) fn is_denied(code: Option<&str>) -> bool {
    matches!(code, Some("AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation"))
}

/// An error and its causes, each once.
fn causes(error: &dyn Error) -> String {
    let mut words = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        words.push(cause.to_string());
        next = cause.source();
    }
    words.dedup();
    words.join(": ")
}

/// Whether an error of that code passes by itself: throttling, a service or a connection that is broken. A service whose
/// answer has no code is broken, too.
fn is_transient(code: &str) -> bool {
    let known = ["NoAnswer", "Unknown", "RequestLimitExceeded", "RequestTimeout", "ServiceFailure"];
    let parts = ["Throttl", "Internal", "Unavailable"];
    known.contains(&code) || parts.iter().any(|part| code.contains(part))
}

/// What to do about an error of that code.
fn advice(code: &str) -> &'static str {
    match code {
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => {
            "the credentials have expired: log in again, then run the command again; it goes on where it stopped"
        }
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" => {
            "the credentials may not do this: `i2kit iam-policy` prints the permissions that are needed"
        }
        "AuthFailure" | "InvalidClientTokenId" | "UnrecognizedClientException" | "SignatureDoesNotMatch" => {
            "AWS does not know these credentials: check the profile, and the clock of this machine"
        }
        "NoAnswer" => {
            "check the network, the region and that credentials are configured; the command can be run again"
        }
        "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "RequestThrottledException" => {
            "AWS went on throttling; run the command again later, it goes on where it stopped"
        }
        code if code.contains("LimitExceeded") || code.contains("QuotaExceeded") => {
            "a quota of the account is used up: raise it in Service Quotas, or delete what is not needed"
        }
        _ => "run the command again; what was done is found and not done twice",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_told_from_what_somebody_mends() {
        for code in [
            "NoAnswer",
            "ThrottlingException",
            "RequestLimitExceeded",
            "InternalFailure",
            "ServiceUnavailable",
        ] {
            assert!(is_transient(code), "{code}");
        }
        for code in ["AccessDenied", "ExpiredToken", "ValidationError", "InstanceLimitExceeded"] {
            assert!(!is_transient(code), "{code}");
        }
    }

    #[test]
    fn throttling_is_not_taken_for_a_quota() {
        assert!(advice("RequestLimitExceeded").contains("throttling"));
        assert!(advice("InstanceLimitExceeded").contains("quota"));
        assert!(advice("ConcurrentSnapshotLimitExceeded").contains("quota"));
        assert!(advice("ExpiredToken").contains("log in again"));
    }
}
