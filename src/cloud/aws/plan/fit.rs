//! Whether CloudFormation takes the stack of a Service or an Ingress, decided before anything is made. What AWS gives ids and names
//! to is not known then: they are taken for as long as they get.

use super::ingress::{self, Standing};
use super::packing::{BalancerSlot, Scheme};
use super::record::{self, MOST_BYTES};
use super::refusal::{self, FrameError};
use super::stack_templates::{self, Balancer, Frame, MOST_TEMPLATE_BYTES, Placed, StackPlan};
use super::{priority, rules};
use crate::manifest::api::Name;
use crate::plan::fleet::{BalancerSpec, HttpSpec};

/// An ARN of a certificate, in the partition and the region with the longest names.
const CERTIFICATE: &str =
    "arn:aws-us-gov:acm:us-gov-west-1:123456789012:certificate/01234567-89ab-cdef-0123-456789abcdef";

/// Refuses a Service or an Ingress that AWS cannot have in the environment, also one that has nothing else. An Ingress whose
/// certificates are found by its hosts counts with one: see [`refuse_certified`].
///
/// # Errors
/// The first reason, and what to do.
pub fn refuse(environment: &str, spec: &BalancerSpec) -> Result<(), FrameError> {
    refusal::refuse(spec)?;
    let (what, most) = (spec.name.clone(), MOST_BYTES);
    let bytes: usize = record::write(spec).iter().map(|(_, part)| part.len()).sum();
    if bytes > most {
        return Err(FrameError::Record { what, bytes, most });
    }
    match (&spec.http, &spec.external_name) {
        (Some(http), _) => refuse_certified(environment, (spec, http), &fewest_certificates(http)),
        (None, Some(other)) => {
            refuse_template(&spec.name, &stack_templates::alias(environment, spec, other, &frame()))
        }
        (None, None) => refuse_template(&spec.name, &service(environment, spec)),
    }
}

/// Refuses an Ingress that AWS cannot have with these certificates.
///
/// # Errors
/// The reason, and what to do.
pub fn refuse_certified(
    environment: &str,
    (spec, http): (&BalancerSpec, &HttpSpec),
    certificates: &[String],
) -> Result<(), FrameError> {
    // Of five digits, as the longest ones are.
    let keys = rules::ordered(http).into_iter().map(rules::key);
    let priorities: priority::Priorities = keys.zip(10_000..).collect();
    let standing = Standing { certificates, priorities: &priorities };
    refuse_template(&spec.name, &ingress::stack(environment, (spec, http), standing, &frame())?)
}

fn refuse_template(what: &Name, plan: &StackPlan) -> Result<(), FrameError> {
    if plan.fits() {
        return Ok(());
    }
    let (bytes, most) = (plan.template.len(), MOST_TEMPLATE_BYTES);
    Err(FrameError::Template { what: what.clone(), bytes, most })
}

/// The certificates that an Ingress has at least.
fn fewest_certificates(http: &HttpSpec) -> Vec<String> {
    if http.certificates.is_empty() && http.has_tls() {
        return vec![CERTIFICATE.to_owned()];
    }
    http.certificates.clone()
}

/// The stack of a Service, on a load balancer whose number has two digits.
fn service(environment: &str, spec: &BalancerSpec) -> StackPlan {
    let balancer = Balancer {
        arn: String::new(),
        dns_name: "x".repeat(253),
        dns_zone: zone(),
        clients: "sg-0123456789abcdef0".to_owned(),
    };
    let placement = BalancerSlot { scheme: Scheme::of(spec.kind), index: 99 };
    stack_templates::service(environment, Placed { spec, placement, balancer: &balancer }, &frame())
}

/// The environment's stack. A load balancer has a subnet a zone, and no region has more zones than six.
fn frame() -> Frame {
    Frame {
        vpc: "vpc-0123456789abcdef0".to_owned(),
        subnets: Vec::new(),
        balancer_subnets: vec!["subnet-0123456789abcdef0".to_owned(); 6],
        machines: "sg-0123456789abcdef0".to_owned(),
        zone: zone(),
        profile: String::new(),
    }
}

/// An id of a zone: at most 32 characters.
fn zone() -> String {
    "Z".repeat(32)
}

#[cfg(test)]
mod tests;
