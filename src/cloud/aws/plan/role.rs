//! Roles of machines: an instance profile for each ServiceAccount that pods name, and for pods that name Secrets.
//!
//! An account that names no role gets one of its own, which may do what every machine must, send its logs, and read the
//! Secrets that the pod names: those and no others. A role that is named is somebody else's and is not changed. Pods that
//! name neither share the environment's profile, which reads no Secret. A Job has a role of its own, with which its machines
//! end themselves.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::name;
use super::stack_templates::{StackPlan, TAG_ENVIRONMENT, TAG_GROUP, arn, render, tags};
use crate::manifest::api::Name;
use crate::plan::fleet::{LaunchSpec, MachineRole};

const TEMPLATE: &str = include_str!("../../../../templates/aws/role.yml");

/// What a Job's machine does to the Auto Scaling groups of its own Job: it ends itself, with or without another one in its
/// place, ends the others, and takes the action away that would end it.
pub const JOB_ACTIONS: [&str; 3] = [
    "autoscaling:DeleteScheduledAction",
    "autoscaling:SetDesiredCapacity",
    "autoscaling:TerminateInstanceInAutoScalingGroup",
];

/// It has itself ended at the deadline. With a size beyond none it could have machines started without number, and is not allowed it.
pub const JOB_DEADLINE: &str = "autoscaling:PutScheduledUpdateGroupAction";

/// What it does to the record of its own Job, which the tool has made.
pub const JOB_LOGS: [&str; 2] = ["logs:GetLogEvents", "logs:PutLogEvents"];

/// The ServiceAccount of pods that name none.
const DEFAULT_ACCOUNT: &str = "default";

/// The instance profile of machines.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstanceProfile {
    /// The ServiceAccount.
    pub account: Name,
    /// The role that it names; one of its own otherwise.
    pub role: Option<String>,
    /// The Secrets of the account's namespace that its own role reads.
    pub secrets: BTreeSet<String>,
    /// The Job whose machines end themselves with its own role.
    pub job: Option<Name>,
}

impl InstanceProfile {
    /// That of the machines of a revision of `group`, which is a Job or not; `None` where the environment's own is enough.
    pub fn of(group: &Name, is_job: bool, launch: &LaunchSpec) -> Option<Self> {
        let held = launch.secrets.iter().filter(|(_, version)| version.is_some());
        let secrets: BTreeSet<String> = held.map(|(name, _)| name.clone()).collect();
        let job = is_job.then(|| group.clone());
        match &launch.role {
            Some(MachineRole { account, role: Some(role) }) => {
                let (account, role) = (account.clone(), Some(role.clone()));
                Some(Self { account, role, secrets: BTreeSet::new(), job: None })
            }
            Some(MachineRole { account, role: None }) => {
                Some(Self { account: account.clone(), role: None, secrets, job })
            }
            None if secrets.is_empty() && !is_job => None,
            None => {
                let namespace = group.namespace.clone();
                let account = Name { namespace, name: DEFAULT_ACCOUNT.to_owned() };
                Some(Self { account, role: None, secrets, job })
            }
        }
    }
}

/// The stack of an instance profile, whose own role keeps within the managed policy `boundary`.
pub fn stack(environment: &str, profile: &InstanceProfile, boundary: Option<&str>) -> StackPlan {
    let InstanceProfile { account, role, secrets, job } = profile;
    let description =
        format!("i2kit: ServiceAccount {}/{} of environment {environment}", account.namespace, account.name);
    let held = secrets.iter().map(|secret| {
        let secret = Name { namespace: account.namespace.clone(), name: secret.clone() };
        json!({"Fn::Sub": arn("secretsmanager", &format!("secret:{}*", name::secret(environment, &secret, "")))})
    });
    let values = json!({
        "description": description,
        "own": role.is_none(),
        "role": role.as_deref().map_or_else(|| json!({"Ref": "Role"}), |role| Value::from(role_name(role))),
        "logs": arn("logs", &format!("log-group:{}:*", name::log_group(environment))),
        "secrets": held.collect::<Vec<Value>>(),
        "job": job.as_ref().map(|job| job_rights(environment, job)),
        "path": name::role_path(environment),
        "boundary": boundary,
        "tags": tags(environment),
    });
    StackPlan {
        name: stack_name(environment, profile),
        part: "role",
        template: render(TEMPLATE, &values),
        parameters: vec![],
    }
}

/// What a Job's role may do besides, as values of the template.
fn job_rights(environment: &str, job: &Name) -> Value {
    let (records, streams) = (name::records(environment), name::records_of(job));
    json!({
        "record": arn("logs", &format!("log-group:{records}:log-stream:{streams}*")),
        "logs": JOB_LOGS,
        "actions": JOB_ACTIONS,
        "deadline": JOB_DEADLINE,
        "tags": {
            format!("aws:ResourceTag/{TAG_ENVIRONMENT}"): environment,
            format!("aws:ResourceTag/{TAG_GROUP}"): format!("{}/{}", job.namespace, job.name),
        },
    })
}

/// The name of the stack of an instance profile. One that comes to mean another role or other Secrets gets another stack, so that older
/// revisions keep theirs.
pub fn stack_name(environment: &str, profile: &InstanceProfile) -> String {
    let InstanceProfile { account, role, secrets, job } = profile;
    let mut whole = format!("{}/{} {}", account.namespace, account.name, role.as_deref().unwrap_or_default());
    for secret in secrets {
        whole += "\n";
        whole += secret;
    }
    if let Some(job) = job {
        // No Secret's name has a blank.
        let _ = write!(whole, "\njob {job}");
    }
    name::role_stack(environment, &whole)
}

/// The name of a role that is given by its ARN, which may have a path, or by its name.
fn role_name(role: &str) -> &str {
    role.rsplit('/').next().unwrap_or(role)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::aws::plan::cost::tests::launch;

    #[test]
    fn an_account_has_a_role_of_its_own_unless_it_names_one() {
        let account = Name { namespace: "shop".into(), name: "reader".into() };
        let secrets: BTreeSet<String> = ["db".to_owned(), "mail".to_owned()].into();
        let own = InstanceProfile { account: account.clone(), role: None, secrets, job: None };
        insta::assert_snapshot!("role", stack("production", &own, None).template);
        let bare = InstanceProfile { secrets: BTreeSet::new(), ..own.clone() };
        assert!(!stack("production", &bare, None).template.contains("secretsmanager"));
        let boundary = "arn:aws:iam::123456789012:policy/machines";
        assert!(stack("production", &own, Some(boundary)).template.contains(boundary));
        let arn = "arn:aws:iam::123456789012:role/team/reader".to_owned();
        let named = InstanceProfile { role: Some(arn), ..bare.clone() };
        let plan = stack("production", &named, None);
        assert!(plan.template.contains(r#"Roles: ["reader"]"#), "{}", plan.template);
        assert!(!plan.template.contains("AWS::IAM::Role"), "{}", plan.template);
        let sum = Name { namespace: "shop".into(), name: "sum".into() };
        let job = InstanceProfile { job: Some(sum), ..bare.clone() };
        let template = stack("production", &job, None).template;
        insta::assert_snapshot!("job_role", template);
        let stacks: BTreeSet<String> =
            [&own, &bare, &named, &job].iter().map(|profile| stack_name("production", profile)).collect();
        assert_eq!(stacks.len(), 4);
    }

    #[test]
    fn machines_read_the_secrets_that_their_pods_name_and_no_others() {
        let mut launch = launch();
        let web = Name { namespace: "shop".into(), name: "web".into() };
        let of = |launch: &LaunchSpec| InstanceProfile::of(&web, false, launch);
        assert_eq!(of(&launch), None);
        assert_eq!(InstanceProfile::of(&web, true, &launch).unwrap().job, Some(web.clone()));
        launch.secrets.insert("missing".into(), None);
        assert_eq!(of(&launch), None);
        launch.secrets.insert("db".into(), Some("0123".into()));
        let default = of(&launch).unwrap();
        assert_eq!((default.account.to_string(), default.role), ("shop/default".into(), None));
        assert_eq!(default.secrets, ["db".to_owned()].into());
        let account = Name { namespace: "shop".into(), name: "reader".into() };
        launch.role = Some(MachineRole { account, role: Some("theirs".into()) });
        let named = of(&launch).unwrap();
        assert_eq!((named.role.as_deref(), named.secrets.len()), (Some("theirs"), 0));
    }
}
