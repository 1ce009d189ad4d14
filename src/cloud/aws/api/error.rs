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

/// The error of an answer without what the call is made for.
pub(super) fn no_id(operation: &str) -> CloudError {
    CloudError::Conflict { message: format!("{operation} answered without what it is called for") }
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

/// Whether Auto Scaling refuses a call because what it is about is not there: the group, its policy, or a target group
/// among its own. For that it has the code of all its refusals, `ValidationError` (a group whose deletion is protected has it,
/// too), and only its words tell which one it is: `AutoScalingGroup name not found - AutoScalingGroup 'web' not found`,
/// `Group web not found`, `Trying to remove Target Groups that are not part of the group`.
pub(super) fn is_not_found(error: &impl ProvideErrorMetadata) -> bool {
    let absent = ["not found", "not part of the group"];
    let words = error.message().unwrap_or_default();
    error.code() == Some("ValidationError") && absent.iter().any(|part| words.contains(part))
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

/// Whether credentials have expired.
fn has_expired(code: &str) -> bool {
    matches!(code, "ExpiredToken" | "ExpiredTokenException" | "RequestExpired")
}

/// Whether AWS does not know the credentials.
fn is_unknown(code: &str) -> bool {
    matches!(
        code,
        "AuthFailure" | "InvalidClientTokenId" | "UnrecognizedClientException" | "SignatureDoesNotMatch"
    )
}

/// Whether a call was answered about its credentials alone: they have expired, or AWS does not know them.
pub(super) fn is_of_credentials(code: &str) -> bool {
    has_expired(code) || is_unknown(code)
}

/// What to do about an error of that code.
fn advice(code: &str) -> &'static str {
    match code {
        code if has_expired(code) => {
            "the credentials have expired: log in again, then run the command again; it goes on where it stopped"
        }
        code if is_denied(Some(code)) => {
            "the credentials may not do this: `i2kit iam-policy` prints the permissions that are needed"
        }
        code if is_unknown(code) => {
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
        "ValidationError" | "ValidationException" => {
            "AWS refuses this as things are: mend what it names, then run the command again; it goes on where it stopped"
        }
        _ => "run the command again; what was done is found and not done twice",
    }
}

#[cfg(test)]
mod tests {
    use aws_smithy_types::error::ErrorMetadata;

    use super::*;

    #[test]
    fn what_auto_scaling_does_not_find_is_told_from_what_it_refuses() {
        let error = |code: &str, words: &str| ErrorMetadata::builder().code(code).message(words).build();
        for words in [
            "AutoScalingGroup name not found - AutoScalingGroup 'i2kit-test_default_web' not found",
            "AutoScalingGroup name not found - null",
            "AutoScalingGroup not found - AutoScaling Group i2kit-test_default_web not found",
            "Group i2kit-test_default_web not found",
            "Trying to remove Target Groups that are not part of the group",
        ] {
            assert!(is_not_found(&error("ValidationError", words)), "{words}");
            // Another code has a meaning of its own.
            assert!(!is_not_found(&error("AccessDenied", words)), "{words}");
        }
        for words in [
            "Trying to update too many Load Balancers/Target Groups at once. The limit is 10",
            "Provided Target Groups may not be valid. Please ensure they exist and try again.",
            "You must use a valid fully-formed launch template. Invalid IAM Instance Profile name",
            "The request isn't valid. The AutoRollback parameter cannot be set to true when the DesiredConfiguration parameter \
             is empty. Set AutoRollback to false or specify a desired configuration and try again.",
            "",
        ] {
            assert!(!is_not_found(&error("ValidationError", words)), "{words}");
        }
        assert!(!is_not_found(&ErrorMetadata::builder().code("ValidationError").build()));
    }

    #[test]
    fn what_is_refused_as_things_are_is_not_only_tried_again() {
        assert!(advice("ValidationError").contains("mend what it names"));
        assert!(advice("ValidationException").contains("mend what it names"));
    }

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
    fn what_is_said_of_credentials_is_told_from_what_they_may_not_do() {
        for code in ["ExpiredToken", "RequestExpired", "AuthFailure", "SignatureDoesNotMatch"] {
            assert!(is_of_credentials(code), "{code}");
        }
        for code in ["UnauthorizedOperation", "DryRunOperation", "NoAnswer", ""] {
            assert!(!is_of_credentials(code), "{code}");
        }
        assert!(advice("AuthFailure").contains("check the profile"));
        assert!(advice("UnauthorizedOperation").contains("iam-policy"));
    }

    #[test]
    fn throttling_is_not_taken_for_a_quota() {
        assert!(advice("RequestLimitExceeded").contains("throttling"));
        assert!(advice("InstanceLimitExceeded").contains("quota"));
        assert!(advice("ConcurrentSnapshotLimitExceeded").contains("quota"));
        assert!(advice("ExpiredToken").contains("log in again"));
    }
}
