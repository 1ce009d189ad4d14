//! The clients of AWS' services: one set of credentials, one TLS stack, one way to try again.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_ec2::config::Credentials;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

use super::settings::AwsSettings;

/// Tries of one call. With back-off up to [`MAX_PAUSE`] that is about two minutes of throttling or of a broken service.
const TRIES: u32 = 10;

/// The longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(20);

/// How long one try may take: a block of 512 KiB takes a second over a slow line, and a lost answer must be noticed.
const TRY: Duration = Duration::from_mins(1);

/// The services that are used.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    pub(super) autoscaling: aws_sdk_autoscaling::Client,
    pub(super) balancing: aws_sdk_elasticloadbalancingv2::Client,
    pub(super) certificates: aws_sdk_acm::Client,
    pub(super) ebs: aws_sdk_ebs::Client,
    pub(super) ec2: aws_sdk_ec2::Client,
    pub(super) iam: aws_sdk_iam::Client,
    pub(super) logs: aws_sdk_cloudwatchlogs::Client,
    pub(super) secrets: aws_sdk_secretsmanager::Client,
    pub(super) quotas: aws_sdk_servicequotas::Client,
    pub(super) stacks: aws_sdk_cloudformation::Client,
    pub(super) sts: aws_sdk_sts::Client,
    pub(super) zones: aws_sdk_route53::Client,
}

impl Clients {
    /// Credentials come as all AWS tools find them: environment, profile, SSO, web identity, instance role; or they are
    /// given.
    pub(super) async fn new(settings: &AwsSettings, credentials: Option<Credentials>) -> Self {
        let http = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .retry_config(RetryConfig::standard().with_max_attempts(TRIES).with_max_backoff(MAX_PAUSE))
            .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(TRY).build())
            .region(Region::new(settings.region.clone()));
        if let Some(profile) = &settings.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(endpoint) = &settings.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        if let Some(credentials) = credentials {
            loader = loader.credentials_provider(credentials);
        }
        let config = loader.load().await;
        Self {
            autoscaling: aws_sdk_autoscaling::Client::new(&config),
            balancing: aws_sdk_elasticloadbalancingv2::Client::new(&config),
            certificates: aws_sdk_acm::Client::new(&config),
            ebs: aws_sdk_ebs::Client::new(&config),
            ec2: aws_sdk_ec2::Client::new(&config),
            iam: aws_sdk_iam::Client::new(&config),
            logs: aws_sdk_cloudwatchlogs::Client::new(&config),
            secrets: aws_sdk_secretsmanager::Client::new(&config),
            quotas: aws_sdk_servicequotas::Client::new(&config),
            stacks: aws_sdk_cloudformation::Client::new(&config),
            sts: aws_sdk_sts::Client::new(&config),
            zones: aws_sdk_route53::Client::new(&config),
        }
    }
}
