//! What an environment is on AWS, decided without asking AWS: names, CloudFormation templates, which network load balancer
//! a Service shares, which type of instance a pod needs; and the table of blocks that a snapshot has in itself.
//!
//! Pure, and compiled without the SDK: everything here can be looked at and tested in an ordinary build.

pub mod block_table;
pub mod calls;
pub mod cost;
pub mod fit;
pub mod iam_policy;
pub mod ingress;
pub mod job;
pub mod machine;
pub mod mask;
pub mod name;
pub mod packing;
pub mod priority;
pub mod record;
pub mod refusal;
pub mod role;
pub mod rules;
pub mod scaling;
pub mod stack_templates;
