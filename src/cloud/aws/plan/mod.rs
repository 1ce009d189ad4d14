//! What an environment is on AWS, decided without asking AWS: names, CloudFormation templates, which network load balancer
//! a Service shares, which type of instance a pod needs.
//!
//! Pure, and compiled without the SDK: everything here can be looked at and tested in an ordinary build.

pub mod calls;
pub mod cost;
pub mod iam_policy;
pub mod ingress;
pub mod machine;
pub mod mask;
pub mod name;
pub mod packing;
pub mod priority;
pub mod refusal;
pub mod role;
pub mod rules;
pub mod scaling;
pub mod stack_templates;
