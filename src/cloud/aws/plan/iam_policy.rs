//! Every call of AWS that i2kit makes, in one table: the policy of `iam-policy` and the simulation of `preflight` come
//! from it, and a test holds it against the calls that a whole deployment makes.

use serde_json::{Map, Value, json};

use super::name;
use super::stack_templates::TAG_ENVIRONMENT;

/// What of the account a call may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// It only reads, and AWS knows no narrower resource for it.
    Looks,
    /// It creates something, which gets the environment's tag in the same call.
    Makes,
    /// It changes something that has the environment's tag.
    Changes,
    /// It is about stacks, which the policy names by their prefix.
    Stacks,
    /// It reads lines of the environment's log group.
    Logs,
    /// It keeps or deletes the values of a Secret, or the key that their versions are made with.
    Keeps,
    /// It reads that key. Values are read by machines alone.
    Key,
    /// CloudFormation makes it for us, with our permissions and on no other occasion.
    Frame,
    /// Auto Scaling checks that the caller may launch the machines of a launch template; nothing is launched without one.
    Launches,
    /// It passes the machines' role to EC2.
    Passes,
}

/// All of them, in the order of the policy's statements.
pub const SCOPES: [Scope; 10] = [
    Scope::Looks,
    Scope::Makes,
    Scope::Changes,
    Scope::Stacks,
    Scope::Logs,
    Scope::Keeps,
    Scope::Key,
    Scope::Launches,
    Scope::Passes,
    Scope::Frame,
];

/// A call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// The action in IAM's words.
    pub action: &'static str,
    /// What it may touch.
    pub scope: Scope,
}

const fn call(scope: Scope, action: &'static str) -> Call {
    Call { action, scope }
}

/// The table.
pub const CALLS: &[Call] = &[
    call(Scope::Looks, "acm:DescribeCertificate"),
    call(Scope::Looks, "acm:ListCertificates"),
    call(Scope::Looks, "autoscaling:DescribeAutoScalingGroups"),
    call(Scope::Looks, "autoscaling:DescribeInstanceRefreshes"),
    call(Scope::Looks, "autoscaling:DescribePolicies"),
    call(Scope::Looks, "autoscaling:DescribeScalingActivities"),
    call(Scope::Looks, "cloudformation:DescribeStacks"),
    call(Scope::Looks, "ec2:DescribeImages"),
    call(Scope::Looks, "ec2:DescribeInstances"),
    call(Scope::Looks, "ec2:DescribeLaunchTemplateVersions"),
    call(Scope::Looks, "ec2:DescribeLaunchTemplates"),
    call(Scope::Looks, "ec2:DescribeSnapshots"),
    call(Scope::Looks, "ec2:DescribeSubnets"),
    call(Scope::Looks, "ec2:GetConsoleOutput"),
    call(Scope::Looks, "elasticloadbalancing:DescribeTargetHealth"),
    call(Scope::Looks, "iam:SimulatePrincipalPolicy"),
    call(Scope::Looks, "secretsmanager:ListSecrets"),
    call(Scope::Looks, "servicequotas:GetServiceQuota"),
    call(Scope::Looks, "sts:GetCallerIdentity"),
    call(Scope::Makes, "autoscaling:CreateAutoScalingGroup"),
    call(Scope::Makes, "ebs:StartSnapshot"),
    call(Scope::Makes, "ec2:CreateLaunchTemplate"),
    call(Scope::Makes, "ec2:CreateTags"),
    call(Scope::Makes, "ec2:RegisterImage"),
    call(Scope::Changes, "autoscaling:AttachLoadBalancerTargetGroups"),
    call(Scope::Changes, "autoscaling:CancelInstanceRefresh"),
    call(Scope::Changes, "autoscaling:DeleteAutoScalingGroup"),
    call(Scope::Changes, "autoscaling:DeletePolicy"),
    call(Scope::Changes, "autoscaling:DetachLoadBalancerTargetGroups"),
    call(Scope::Changes, "autoscaling:PutScalingPolicy"),
    call(Scope::Changes, "autoscaling:RollbackInstanceRefresh"),
    call(Scope::Changes, "autoscaling:StartInstanceRefresh"),
    call(Scope::Changes, "autoscaling:UpdateAutoScalingGroup"),
    call(Scope::Changes, "ebs:CompleteSnapshot"),
    call(Scope::Changes, "ebs:GetSnapshotBlock"),
    call(Scope::Changes, "ebs:ListSnapshotBlocks"),
    call(Scope::Changes, "ebs:PutSnapshotBlock"),
    call(Scope::Changes, "ec2:CreateLaunchTemplateVersion"),
    call(Scope::Changes, "ec2:CreateTags"),
    call(Scope::Changes, "ec2:DeleteLaunchTemplate"),
    call(Scope::Changes, "ec2:DeleteLaunchTemplateVersions"),
    call(Scope::Changes, "ec2:DeleteSnapshot"),
    call(Scope::Changes, "ec2:DeregisterImage"),
    call(Scope::Changes, "ec2:ModifyLaunchTemplate"),
    call(Scope::Stacks, "cloudformation:CreateStack"),
    call(Scope::Stacks, "cloudformation:DeleteStack"),
    call(Scope::Stacks, "cloudformation:DescribeStackEvents"),
    call(Scope::Stacks, "cloudformation:UpdateStack"),
    call(Scope::Logs, "logs:FilterLogEvents"),
    call(Scope::Keeps, "secretsmanager:CreateSecret"),
    call(Scope::Keeps, "secretsmanager:DeleteSecret"),
    call(Scope::Keeps, "secretsmanager:DescribeSecret"),
    call(Scope::Keeps, "secretsmanager:TagResource"),
    call(Scope::Key, "secretsmanager:GetSecretValue"),
    call(Scope::Launches, "ec2:RunInstances"),
    call(Scope::Passes, "iam:PassRole"),
    call(Scope::Frame, "ec2:AssociateRouteTable"),
    call(Scope::Frame, "ec2:AttachInternetGateway"),
    call(Scope::Frame, "ec2:AuthorizeSecurityGroupIngress"),
    call(Scope::Frame, "ec2:CreateInternetGateway"),
    call(Scope::Frame, "ec2:CreateRoute"),
    call(Scope::Frame, "ec2:CreateRouteTable"),
    call(Scope::Frame, "ec2:CreateSecurityGroup"),
    call(Scope::Frame, "ec2:CreateSubnet"),
    call(Scope::Frame, "ec2:CreateVpc"),
    call(Scope::Frame, "ec2:DeleteInternetGateway"),
    call(Scope::Frame, "ec2:DeleteRoute"),
    call(Scope::Frame, "ec2:DeleteRouteTable"),
    call(Scope::Frame, "ec2:DeleteSecurityGroup"),
    call(Scope::Frame, "ec2:DeleteSubnet"),
    call(Scope::Frame, "ec2:DeleteVpc"),
    call(Scope::Frame, "ec2:Describe*"),
    call(Scope::Frame, "ec2:DetachInternetGateway"),
    call(Scope::Frame, "ec2:DisassociateRouteTable"),
    call(Scope::Frame, "ec2:ModifySubnetAttribute"),
    call(Scope::Frame, "ec2:ModifyVpcAttribute"),
    call(Scope::Frame, "ec2:RevokeSecurityGroupIngress"),
    call(Scope::Frame, "elasticloadbalancing:*"),
    call(Scope::Frame, "iam:AddRoleToInstanceProfile"),
    call(Scope::Frame, "iam:CreateInstanceProfile"),
    call(Scope::Frame, "iam:CreateRole"),
    call(Scope::Frame, "iam:CreateServiceLinkedRole"),
    call(Scope::Frame, "iam:DeleteInstanceProfile"),
    call(Scope::Frame, "iam:DeleteRole"),
    call(Scope::Frame, "iam:DeleteRolePolicy"),
    call(Scope::Frame, "iam:GetInstanceProfile"),
    call(Scope::Frame, "iam:GetRole"),
    call(Scope::Frame, "iam:GetRolePolicy"),
    call(Scope::Frame, "iam:PutRolePolicy"),
    call(Scope::Frame, "iam:RemoveRoleFromInstanceProfile"),
    call(Scope::Frame, "iam:TagRole"),
    call(Scope::Frame, "logs:CreateLogGroup"),
    call(Scope::Frame, "logs:DeleteLogGroup"),
    call(Scope::Frame, "logs:DescribeLogGroups"),
    call(Scope::Frame, "logs:ListTagsForResource"),
    call(Scope::Frame, "logs:PutRetentionPolicy"),
    call(Scope::Frame, "logs:TagResource"),
    call(Scope::Frame, "route53:ChangeResourceRecordSets"),
    call(Scope::Frame, "route53:ChangeTagsForResource"),
    call(Scope::Frame, "route53:CreateHostedZone"),
    call(Scope::Frame, "route53:DeleteHostedZone"),
    call(Scope::Frame, "route53:GetChange"),
    call(Scope::Frame, "route53:GetHostedZone"),
    call(Scope::Frame, "route53:ListResourceRecordSets"),
];

/// Actions of the services with REST interfaces, which a journal of calls shows by method and path.
const REST: &[(&str, &str, &str)] = &[
    ("POST", "/snapshots", "ebs:StartSnapshot"),
    ("PUT", "/snapshots/", "ebs:PutSnapshotBlock"),
    ("POST", "/snapshots/completion/", "ebs:CompleteSnapshot"),
    ("GET", "/snapshots/", "ebs:GetSnapshotBlock"),
];

/// The action in IAM's words of a call as the test bed's journal names it; `None` when the table lacks it.
pub fn action(journal: &str) -> Option<&'static str> {
    if let Some((method, path)) = journal.split_once(' ') {
        let found = REST.iter().filter(|(m, p, _)| *m == method && path.starts_with(p));
        let longest = found.max_by_key(|(_, p, _)| p.len()).map(|(_, _, action)| *action);
        let lists = method == "GET" && path.ends_with("/blocks");
        return if lists { Some("ebs:ListSnapshotBlocks") } else { longest };
    }
    let named = |call: &&Call| call.action.split_once(':').is_some_and(|(_, name)| name == journal);
    CALLS.iter().filter(|call| call.scope != Scope::Frame).find(named).map(|call| call.action)
}

/// The smallest policy with which everything works in `environment`, as a policy document of IAM.
pub fn policy(environment: &str) -> Value {
    let statements: Vec<Value> = SCOPES.iter().map(|scope| statement(*scope, environment)).collect();
    json!({ "Version": "2012-10-17", "Statement": statements })
}

fn statement(scope: Scope, environment: &str) -> Value {
    let actions: Vec<&str> =
        CALLS.iter().filter(|call| call.scope == scope).map(|call| call.action).collect();
    let mut statement = Map::new();
    statement.insert("Sid".into(), json!(format!("{scope:?}")));
    statement.insert("Effect".into(), json!("Allow"));
    statement.insert("Action".into(), json!(actions));
    let tagged = |of: &str| json!({"StringEquals": {format!("aws:{of}/{TAG_ENVIRONMENT}"): environment}});
    let (resource, condition) = match scope {
        Scope::Looks => (json!("*"), None),
        Scope::Makes => (json!("*"), Some(tagged("RequestTag"))),
        Scope::Changes => (json!("*"), Some(tagged("ResourceTag"))),
        Scope::Stacks => (json!(format!("arn:*:cloudformation:*:*:stack/i2kit-*-{environment}/*")), None),
        Scope::Logs => (json!(format!("arn:*:logs:*:*:log-group:/i2kit/{environment}:*")), None),
        Scope::Keeps => {
            (json!([secret(&format!("{}*", name::secrets(environment))), key(environment)]), None)
        }
        Scope::Key => (json!(key(environment)), None),
        Scope::Launches => {
            (json!("*"), Some(json!({"ArnLike": {"ec2:LaunchTemplate": "arn:*:ec2:*:*:launch-template/*"}})))
        }
        Scope::Passes => (
            json!(format!("arn:*:iam::*:role{}*", name::role_path(environment))),
            Some(json!({"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}})),
        ),
        Scope::Frame => (
            json!("*"),
            Some(json!({"ForAnyValue:StringEquals": {"aws:CalledVia": ["cloudformation.amazonaws.com"]}})),
        ),
    };
    statement.insert("Resource".into(), resource);
    if let Some(condition) = condition {
        statement.insert("Condition".into(), condition);
    }
    Value::Object(statement)
}

/// The account and region of an environment, as ARNs name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account<'a> {
    /// `aws`, or that of a part of AWS which stands alone.
    pub partition: &'a str,
    /// The region.
    pub region: &'a str,
    /// The account's number.
    pub id: &'a str,
}

/// Something that calls of `scope` are about, where the policy names more than a tag: a simulation needs its ARN.
pub fn example(scope: Scope, environment: &str, account: Account<'_>) -> Option<String> {
    let Account { partition, region, id } = account;
    let arn = |service: &str, resource: &str| format!("arn:{partition}:{service}:{region}:{id}:{resource}");
    match scope {
        Scope::Stacks => {
            Some(arn("cloudformation", &format!("stack/{}/0", name::environment_stack(environment))))
        }
        Scope::Logs => Some(arn("logs", &format!("log-group:{}:*", name::log_group(environment)))),
        Scope::Keeps | Scope::Key => {
            Some(arn("secretsmanager", &format!("secret:{}-AbCdEf", name::secrets_key(environment))))
        }
        Scope::Passes => {
            Some(format!("arn:{partition}:iam::{id}:role{}machine", name::role_path(environment)))
        }
        Scope::Looks | Scope::Makes | Scope::Changes | Scope::Frame | Scope::Launches => None,
    }
}

fn secret(name: &str) -> String {
    format!("arn:*:secretsmanager:*:*:secret:{name}")
}

/// The ARN of the key of Secrets' versions: Secrets Manager puts a hyphen and six characters behind the name.
fn key(environment: &str) -> String {
    secret(&format!("{}-??????", name::secrets_key(environment)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_known_as_a_journal_names_them() {
        assert_eq!(action("StartInstanceRefresh"), Some("autoscaling:StartInstanceRefresh"));
        assert_eq!(action("POST /snapshots"), Some("ebs:StartSnapshot"));
        assert_eq!(action("PUT /snapshots/snap-1/blocks/3"), Some("ebs:PutSnapshotBlock"));
        assert_eq!(action("POST /snapshots/completion/snap-1"), Some("ebs:CompleteSnapshot"));
        assert_eq!(action("GET /snapshots/snap-1/blocks"), Some("ebs:ListSnapshotBlocks"));
        assert_eq!(action("GET /snapshots/snap-1/blocks/3"), Some("ebs:GetSnapshotBlock"));
        assert_eq!(action("TerminateInstances"), None);
    }

    #[test]
    fn the_policy_names_the_environment_wherever_something_is_changed() {
        let policy = policy("production");
        insta::assert_snapshot!("policy", serde_json::to_string_pretty(&policy).unwrap());
        // The largest managed policy of IAM, blanks not counted.
        assert!(policy.to_string().len() < 6144, "{}", policy.to_string().len());
        assert!(CALLS.iter().all(|call| call.action.contains(':')));
    }

    #[test]
    fn what_is_simulated_is_what_the_policy_names() {
        let account = Account { partition: "aws", region: "eu-west-1", id: "123456789012" };
        let policy = policy("production");
        for scope in SCOPES {
            let Some(example) = example(scope, "production", account) else { continue };
            let statements = policy["Statement"].as_array().unwrap();
            let sid = format!("{scope:?}");
            let statement = statements.iter().find(|statement| statement["Sid"] == sid.as_str()).unwrap();
            let patterns = match &statement["Resource"] {
                Value::Array(several) => several.clone(),
                one => vec![one.clone()],
            };
            let fits = |pattern: &Value| matches(pattern.as_str().unwrap(), &example);
            assert!(patterns.iter().any(fits), "{example} is not of {patterns:?}");
        }
    }

    /// IAM's patterns: `*` is any text and `?` one character.
    fn matches(pattern: &str, text: &str) -> bool {
        let mut characters = pattern.chars();
        match characters.next() {
            None => text.is_empty(),
            Some('*') => (0..=text.len())
                .filter(|at| text.is_char_boundary(*at))
                .any(|at| matches(characters.as_str(), &text[at..])),
            Some(wanted) => {
                let mut rest = text.chars();
                rest.next().is_some_and(|found| wanted == '?' || wanted == found)
                    && matches(characters.as_str(), rest.as_str())
            }
        }
    }
}
