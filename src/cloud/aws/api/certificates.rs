//! Certificates of balancers that end TLS: found by their hosts, and checked before anything is built.

use std::collections::BTreeSet;

use aws_sdk_acm::types::{CertificateDetail, CertificateStatus, CertificateSummary, Filters, KeyAlgorithm};

use super::environment::Aws;
use super::error::failed;
use crate::cloud::CloudError;
use crate::cloud::aws::plan::fit;
use crate::cloud::aws::plan::ingress::{self, Certificate};
use crate::cloud::provider::Check;
use crate::plan::fleet::BalancerSpec;

/// Part of the ARNs of ACM's certificates; others are IAM's, which has fewer details.
const STORE: &str = ":acm:";

impl Aws {
    /// The certificates of the region that are in force.
    pub(super) async fn certificates(&self) -> Result<Vec<Certificate>, CloudError> {
        let kinds = [KeyAlgorithm::Rsa2048, KeyAlgorithm::Rsa3072, KeyAlgorithm::Rsa4096];
        let curves = [KeyAlgorithm::EcPrime256v1, KeyAlgorithm::EcSecp384r1, KeyAlgorithm::EcSecp521r1];
        let all = Filters::builder().set_key_types(Some(kinds.into_iter().chain(curves).collect())).build();
        let asked = self.clients.certificates.list_certificates().includes(all);
        let found = asked.certificate_statuses(CertificateStatus::Issued).into_paginator().items().send();
        let found: Vec<CertificateSummary> = found.try_collect().await.map_err(failed("ListCertificates"))?;
        let one = |summary: CertificateSummary| {
            let mut names = summary.subject_alternative_name_summaries.unwrap_or_default();
            names.extend(summary.domain_name);
            Some(Certificate { arn: summary.certificate_arn?, names })
        };
        Ok(found.into_iter().filter_map(one).collect())
    }

    /// A check for each balancer that ends TLS.
    pub(super) async fn certificate_checks(&self, balancers: &[BalancerSpec]) -> Vec<Check> {
        let mut checks = Vec::new();
        for spec in balancers {
            let hosts = spec.http.as_ref().map(|http| http.hosts.as_slice()).unwrap_or_default();
            let named = named(spec);
            if named.is_empty() && hosts.is_empty() {
                continue;
            }
            let found = if named.is_empty() {
                self.covering(spec, hosts).await
            } else {
                self.in_force(&named, hosts).await
            };
            checks.push(match found {
                Ok((ok, finding)) => Check::new(&format!("certificate of {}", spec.name), ok, finding),
                Err(error) => Check::new(&format!("certificate of {}", spec.name), None, error.to_string()),
            });
        }
        checks
    }

    /// Whether the store has certificates for all hosts, and there is room for them.
    async fn covering(
        &self,
        spec: &BalancerSpec,
        hosts: &[String],
    ) -> Result<(Option<bool>, String), CloudError> {
        let store = self.certificates().await?;
        let found = ingress::certificates_of(&spec.name, hosts, &store).and_then(|arns| {
            let environment = &self.settings.environment;
            if let Some(http) = &spec.http {
                fit::refuse_certified(environment, (spec, http), &arns)?;
            }
            Ok(arns)
        });
        Ok(match found {
            Ok(arns) => (Some(true), arns.join(", ")),
            Err(error) => (Some(false), error.to_string()),
        })
    }

    /// Whether all that are named are in force, and together cover all hosts.
    async fn in_force(
        &self,
        named: &BTreeSet<&String>,
        hosts: &[String],
    ) -> Result<(Option<bool>, String), CloudError> {
        let mut wrong = Vec::new();
        let mut covered: Vec<String> = Vec::new();
        let mut is_known = true;
        for arn in named {
            if !arn.contains(STORE) {
                is_known = false;
                continue;
            }
            let asked = self.clients.certificates.describe_certificate().certificate_arn(*arn).send().await;
            match asked.map(|found| found.certificate) {
                Ok(Some(found)) => {
                    wrong.extend(why_not(arn, &found));
                    covered.extend(found.domain_name);
                    covered.extend(found.subject_alternative_names.unwrap_or_default());
                }
                Ok(None) => wrong.push(format!("ACM has no details of {arn}")),
                Err(error) => match failed("DescribeCertificate")(error) {
                    CloudError::Api { code, .. }
                        if code == "ResourceNotFoundException" || code == "InvalidArnException" =>
                    {
                        wrong.push(format!("there is no {arn} in {}", self.settings.region));
                    }
                    other => return Err(other),
                },
            }
        }
        if is_known && wrong.is_empty() {
            let uncovered =
                hosts.iter().filter(|host| !covered.iter().any(|name| ingress::covers(name, host)));
            wrong.extend(uncovered.map(|host| format!("none that is named is for {host}")));
        }
        Ok(match (wrong.is_empty(), is_known) {
            (false, _) => (Some(false), wrong.join("; ")),
            (true, true) => (Some(true), format!("in force, for {}", covered.join(", "))),
            (true, false) => (None, "a certificate of IAM is not looked at".into()),
        })
    }
}

/// The certificates that a balancer names.
fn named(spec: &BalancerSpec) -> BTreeSet<&String> {
    let listeners = spec.listeners.iter().filter_map(|listener| listener.tls.as_ref());
    let http = spec.http.iter().flat_map(|http| &http.certificates);
    listeners.flat_map(|tls| &tls.certificates).chain(http).collect()
}

/// Why a certificate cannot be used, if so.
fn why_not(arn: &str, found: &CertificateDetail) -> Option<String> {
    let status = found.status()?;
    if *status == CertificateStatus::Issued {
        return None;
    }
    let advice = if *status == CertificateStatus::PendingValidation {
        ": make the DNS records that ACM asks for"
    } else {
        ": request another one"
    };
    Some(format!("{arn} is {}{advice}", status.as_str()))
}
