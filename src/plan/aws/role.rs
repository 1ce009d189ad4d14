//! As whom machines act: an instance profile for each ServiceAccount that pods name.
//!
//! An account that names no role gets one of its own, which may do what every machine must: send its logs and fetch the
//! environment's Secrets. A role that is named is somebody else's and is not changed.

use serde_json::{Value, json};

use super::frame::{StackPlan, arn, render, secrets_of, tags};
use super::name;
use crate::plan::fleet::MachineRole;

const TEMPLATE: &str = include_str!("../../../templates/aws/role.yml");

/// The stack of a ServiceAccount's instance profile.
pub fn stack(environment: &str, role: &MachineRole) -> StackPlan {
    let account = &role.account;
    let own = role.role.is_none();
    let (secrets, parameters) = secrets_of(environment);
    let description =
        format!("i2kit: ServiceAccount {}/{} of environment {environment}", account.namespace, account.name);
    let values = json!({
        "description": description,
        "own": own,
        "role": role.role.as_deref().map_or_else(|| json!({"Ref": "Role"}), |role| Value::from(role_name(role))),
        "logs": arn("logs", &format!("log-group:{}:*", name::log_group(environment))),
        "secrets": secrets,
        "parameters": parameters,
        "tags": tags(environment),
    });
    StackPlan {
        name: name::role_stack(environment, role),
        part: "role",
        template: render(TEMPLATE, &values),
        parameters: vec![],
    }
}

/// The name of a role that is given by its ARN, which may have a path, or by its name.
fn role_name(role: &str) -> &str {
    role.rsplit('/').next().unwrap_or(role)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::api::Name;

    #[test]
    fn an_account_has_a_role_of_its_own_unless_it_names_one() {
        let account = Name { namespace: "shop".into(), name: "reader".into() };
        let own = MachineRole { account: account.clone(), role: None };
        insta::assert_snapshot!("role", stack("production", &own).template);
        let arn = "arn:aws:iam::123456789012:role/team/reader".to_owned();
        let named = MachineRole { account, role: Some(arn) };
        let plan = stack("production", &named);
        assert!(plan.template.contains(r#"Roles: ["reader"]"#), "{}", plan.template);
        assert!(!plan.template.contains("AWS::IAM::Role"), "{}", plan.template);
        assert_ne!(plan.name, stack("production", &own).name);
    }
}
