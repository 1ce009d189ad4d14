//! The smallest policy with which i2kit works in an environment, from the table of its calls, and what a simulation of it is
//! asked with.

use serde_json::{Map, Value, json};

use super::calls::{CALLS, SCOPES, Scope};
use super::name;
use super::role::{JOB_ACTIONS, JOB_DEADLINE, JOB_LOGS};
use super::stack_templates::TAG_ENVIRONMENT;

/// Calls that create things with tags: EC2 asks for the right to tag besides, and names the call.
const CREATES: &[&str] = &["CreateLaunchTemplate", "RegisterImage", "RunInstances", "StartSnapshot"];

/// What a launch needs beside things that have the environment's tag or get it.
const LAUNCHED: [&str; 3] = ["network-interface", "spot-instances-request", "subnet"];

/// Services that act with roles of their own.
const LINKED: &[&str] =
    &["autoscaling.amazonaws.com", "elasticloadbalancing.amazonaws.com", "spot.amazonaws.com"];

/// An environment that a policy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject<'a> {
    /// Its name.
    pub environment: &'a str,
    /// The ARN of the managed policy that bounds its roles, if any.
    pub boundary: Option<&'a str>,
}

/// A condition of a statement: operator, key and values.
type Condition = (&'static str, String, Value);

/// The operator of a key that few of a statement's calls have.
const WHERE_GIVEN: &str = "StringEqualsIfExists";

/// The smallest policy with which everything works in an environment, as a policy document of IAM.
pub fn policy(subject: Subject<'_>) -> Value {
    let statements: Vec<Value> = SCOPES.iter().map(|scope| statement(*scope, subject)).collect();
    json!({ "Version": "2012-10-17", "Statement": statements })
}

/// The most that roles of the environment's machines may do: the boundary that `permissionsBoundary` names has this document.
pub fn boundary(environment: &str) -> Value {
    let logs = ["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"];
    let statement =
        |action: Value, resource: String| json!({"Effect": "Allow", "Action": action, "Resource": resource});
    json!({ "Version": "2012-10-17", "Statement": [
        statement(json!(logs), inside(&name::log_group(environment))),
        statement(json!("secretsmanager:GetSecretValue"), secret(&format!("{}*", name::secrets(environment)))),
        // Machines of Jobs keep their record, and end themselves; none starts any.
        statement(json!(JOB_LOGS), inside(&name::records(environment))),
        {
            "Effect": "Allow", "Action": JOB_ACTIONS, "Resource": "*",
            "Condition": { "StringEquals": { format!("aws:ResourceTag/{TAG_ENVIRONMENT}"): environment } },
        },
        {
            "Effect": "Allow", "Action": JOB_DEADLINE, "Resource": "*",
            "Condition": {
                "StringEquals": { format!("aws:ResourceTag/{TAG_ENVIRONMENT}"): environment },
                "NumericEquals": { "autoscaling:MaxSize": "0" },
            },
        },
    ]})
}

fn statement(scope: Scope, subject: Subject<'_>) -> Value {
    let actions = CALLS.iter().filter(|call| call.scope == scope).map(|call| call.action);
    let actions: Vec<&str> = actions.collect();
    let mut statement = Map::new();
    statement.insert("Sid".into(), json!(format!("{scope:?}")));
    statement.insert("Effect".into(), json!("Allow"));
    statement.insert("Action".into(), json!(actions));
    statement.insert("Resource".into(), resources(scope, subject.environment));
    let mut tests: Map<String, Value> = Map::new();
    for (operator, key, values) in conditions(scope, subject) {
        tests.entry(operator).or_insert_with(|| json!({}))[key] = values;
    }
    if !tests.is_empty() {
        statement.insert("Condition".into(), Value::Object(tests));
    }
    Value::Object(statement)
}

fn resources(scope: Scope, environment: &str) -> Value {
    let path = name::role_path(environment);
    match scope {
        Scope::Stacks => {
            let patterns = name::stack_patterns(environment);
            json!(patterns.map(|pattern| format!("arn:*:cloudformation:*:*:stack/{pattern}/*")))
        }
        // Calls about tags name a log group without what is in it.
        Scope::Logs => {
            let (lines, records) = (name::log_group(environment), name::records(environment));
            json!([log_group(&lines), inside(&lines), log_group(&format!("{records}*"))])
        }
        Scope::Keeps => json!([secret(&format!("{}*", name::secrets(environment))), key(environment)]),
        Scope::Key => json!(key(environment)),
        Scope::Passes | Scope::Grants => json!(format!("arn:*:iam::*:role{path}*")),
        Scope::Roles => {
            json!([format!("arn:*:iam::*:role{path}*"), format!("arn:*:iam::*:instance-profile{path}*")])
        }
        Scope::Linked => json!("arn:*:iam::*:role/aws-service-role/*"),
        Scope::Launches => json!(LAUNCHED.map(|kind| format!("arn:*:ec2:*:*:{kind}/*"))),
        Scope::Looks
        | Scope::Makes
        | Scope::Tags
        | Scope::Changes
        | Scope::Encrypts
        | Scope::Frame
        | Scope::Removes => json!("*"),
    }
}

fn conditions(scope: Scope, subject: Subject<'_>) -> Vec<Condition> {
    let equals = |key: &str, values: Value| ("StringEquals", key.to_owned(), values);
    let tagged = |of: &str| equals(&format!("aws:{of}/{TAG_ENVIRONMENT}"), json!(subject.environment));
    let by_stacks =
        || ("ForAnyValue:StringEquals", "aws:CalledVia".to_owned(), json!("cloudformation.amazonaws.com"));
    match scope {
        Scope::Makes => vec![tagged("RequestTag")],
        Scope::Tags => vec![tagged("RequestTag"), equals("ec2:CreateAction", json!(CREATES))],
        // Nothing of the environment's becomes another one's by a tag, either.
        Scope::Changes => {
            let (_, key, value) = tagged("RequestTag");
            vec![tagged("ResourceTag"), (WHERE_GIVEN, key, value)]
        }
        Scope::Launches => {
            let template = json!("arn:*:ec2:*:*:launch-template/*");
            vec![("ArnLike", "ec2:LaunchTemplate".to_owned(), template)]
        }
        // A role that is put into an instance profile is passed as well; the service's name has an end of its own in China.
        Scope::Passes => {
            vec![("StringLikeIfExists", "iam:PassedToService".to_owned(), json!("ec2.amazonaws.com*"))]
        }
        Scope::Encrypts => {
            vec![("StringLike", "kms:ViaService".to_owned(), json!("ec2.*.amazonaws.com*"))]
        }
        Scope::Linked => vec![equals("iam:AWSServiceName", json!(LINKED))],
        Scope::Frame | Scope::Roles => vec![by_stacks()],
        Scope::Removes => vec![tagged("ResourceTag"), by_stacks()],
        Scope::Grants => {
            let boundary = subject.boundary.map(|arn| equals("iam:PermissionsBoundary", json!(arn)));
            boundary.into_iter().chain([by_stacks()]).collect()
        }
        Scope::Looks | Scope::Stacks | Scope::Logs | Scope::Keeps | Scope::Key => vec![],
    }
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

/// What a simulation of the calls of a scope is asked with: the keys that such a call has, and no others, and something that
/// it is about, where the policy names more than a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Simulation {
    /// The ARN.
    pub resource: Option<String>,
    /// Condition keys with a value of each.
    pub context: Vec<(String, String)>,
}

/// The simulation of a scope.
pub fn simulation(scope: Scope, subject: Subject<'_>, account: Account<'_>) -> Simulation {
    let value = |values: &Value| {
        let first = values.as_array().and_then(|several| several.first()).unwrap_or(values);
        first.as_str().unwrap_or_default().replace('*', "")
    };
    let asked = conditions(scope, subject).into_iter().filter(|(operator, ..)| *operator != WHERE_GIVEN);
    let context = asked.map(|(operator, key, values)| {
        let pattern = operator == "ArnLike";
        let template = || {
            let Account { partition, region, id } = account;
            format!("arn:{partition}:ec2:{region}:{id}:launch-template/lt-0")
        };
        (key, if pattern { template() } else { value(&values) })
    });
    Simulation { context: context.collect(), resource: example(scope, subject.environment, account) }
}

fn example(scope: Scope, environment: &str, account: Account<'_>) -> Option<String> {
    let Account { partition, region, id } = account;
    let arn = |service: &str, resource: &str| format!("arn:{partition}:{service}:{region}:{id}:{resource}");
    let iam = |resource: &str| format!("arn:{partition}:iam::{id}:{resource}");
    match scope {
        Scope::Stacks => {
            Some(arn("cloudformation", &format!("stack/{}/0", name::environment_stack(environment))))
        }
        Scope::Logs => Some(arn("logs", &format!("log-group:{}:*", name::log_group(environment)))),
        Scope::Keeps | Scope::Key => {
            Some(arn("secretsmanager", &format!("secret:{}-AbCdEf", name::secrets_key(environment))))
        }
        Scope::Passes | Scope::Grants | Scope::Roles => {
            Some(iam(&format!("role{}machine", name::role_path(environment))))
        }
        Scope::Linked => {
            Some(iam("role/aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling"))
        }
        Scope::Launches => Some(arn("ec2", "subnet/subnet-0")),
        Scope::Looks
        | Scope::Makes
        | Scope::Tags
        | Scope::Changes
        | Scope::Encrypts
        | Scope::Frame
        | Scope::Removes => None,
    }
}

fn log_group(group: &str) -> String {
    format!("arn:*:logs:*:*:log-group:{group}")
}

/// What is in a log group.
fn inside(group: &str) -> String {
    format!("{}:*", log_group(group))
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

    const PRODUCTION: Subject<'static> = Subject { environment: "production", boundary: None };

    #[test]
    fn the_policy_names_the_environment_wherever_something_is_changed() {
        let policy = policy(PRODUCTION);
        insta::assert_snapshot!("policy", serde_json::to_string_pretty(&policy).unwrap());
        // All policies in a role of IAM together, blanks not counted. Names of environments may be long.
        let longest =
            super::policy(Subject { environment: &"e".repeat(40), boundary: Some(&"b".repeat(80)) });
        assert!(longest.to_string().len() < 10_240, "{}", longest.to_string().len());
        assert!(CALLS.iter().all(|call| call.action.contains(':') && !call.action.contains('*')));
    }

    /// Whether the policy allows an action on a resource whose keys have these values.
    fn allows(policy: &Value, action: &str, resource: &str, keys: &[(&str, &str)]) -> bool {
        let listed = |value: &Value| match value {
            Value::Array(several) => several.clone(),
            one => vec![one.clone()],
        };
        let any = |patterns: &Value, text: &str| {
            listed(patterns).iter().any(|pattern| matches(pattern.as_str().unwrap(), text))
        };
        let holds = |(operator, tests): (&String, &Value)| {
            tests.as_object().unwrap().iter().all(|(key, wanted)| {
                let found = keys.iter().find(|(name, _)| name == key);
                found.map_or(operator.ends_with("IfExists"), |(_, value)| any(wanted, value))
            })
        };
        policy["Statement"].as_array().unwrap().iter().any(|statement| {
            any(&statement["Action"], action)
                && any(&statement["Resource"], resource)
                && statement["Condition"].as_object().is_none_or(|tests| tests.iter().all(holds))
        })
    }

    #[test]
    fn what_is_another_environments_is_neither_changed_nor_launched_nor_read() {
        let policy = policy(PRODUCTION);
        let own = ("aws:ResourceTag/i2kit:environment", "production");
        let other = ("aws:ResourceTag/i2kit:environment", "staging");
        let arn = |what: &str| format!("arn:aws:ec2:eu-west-1:123456789012:{what}");
        let template = ("ec2:LaunchTemplate", arn("launch-template/lt-1"));
        let template = (template.0, template.1.as_str());
        let launched = |what: &str, tag| allows(&policy, "ec2:RunInstances", &arn(what), &[tag, template]);
        for what in ["launch-template/lt-1", "image/ami-1", "security-group/sg-1"] {
            assert!(launched(what, own) && !launched(what, other), "{what}");
        }
        let asked = |environment| ("aws:RequestTag/i2kit:environment", environment);
        for what in ["instance/*", "volume/*"] {
            assert!(launched(what, asked("production")) && !launched(what, asked("staging")), "{what}");
        }
        // A network may be a stranger's, and its subnets have no tag; without a template nothing is launched into them.
        assert!(allows(&policy, "ec2:RunInstances", &arn("subnet/subnet-1"), &[template]));
        assert!(!allows(&policy, "ec2:RunInstances", &arn("subnet/subnet-1"), &[]));
        // A console is read, and a tag is put, where it is the environment's and stays so.
        let machine = arn("instance/i-1");
        let console = |tag| allows(&policy, "ec2:GetConsoleOutput", &machine, &[tag]);
        assert!(console(own) && !console(other));
        let tags = |keys: &[(&str, &str)]| allows(&policy, "ec2:CreateTags", &machine, keys);
        assert!(tags(&[own]) && tags(&[own, asked("production")]));
        assert!(!tags(&[other]) && !tags(&[own, asked("staging")]));
        // CloudFormation deletes what is the environment's, and keeps its log group.
        let by_stacks = ("aws:CalledVia", "cloudformation.amazonaws.com");
        let deleted = |keys: &[(&str, &str)]| allows(&policy, "ec2:DeleteVpc", &arn("vpc/vpc-1"), keys);
        assert!(deleted(&[own, by_stacks]) && !deleted(&[own]) && !deleted(&[other, by_stacks]));
        let logs = |action: &str, group: &str| {
            let group = format!("arn:aws:logs:eu-west-1:123456789012:log-group:/i2kit/{group}");
            allows(&policy, action, &group, &[by_stacks])
        };
        assert!(logs("logs:TagResource", "production") && logs("logs:DeleteLogGroup", "production:*"));
        assert!(logs("logs:DeleteLogStream", "production/jobs:log-stream:shop/sum/1"));
        assert!(!logs("logs:DeleteLogStream", "staging/jobs:log-stream:shop/sum/1"));
        assert!(!logs("logs:TagResource", "staging") && !logs("logs:DeleteLogGroup", "production-eu:*"));
    }

    /// The patterns of a statement's resources.
    fn patterns(policy: &Value, scope: Scope) -> Vec<String> {
        let sid = format!("{scope:?}");
        let statements = policy["Statement"].as_array().unwrap();
        let statement = statements.iter().find(|statement| statement["Sid"] == sid.as_str()).unwrap();
        match &statement["Resource"] {
            Value::Array(several) => several.iter().map(|one| one.as_str().unwrap().to_owned()).collect(),
            one => vec![one.as_str().unwrap().to_owned()],
        }
    }

    #[test]
    fn what_is_simulated_is_what_the_policy_names() {
        let account = Account { partition: "aws", region: "eu-west-1", id: "123456789012" };
        let policy = policy(PRODUCTION);
        for scope in SCOPES {
            let Some(example) = simulation(scope, PRODUCTION, account).resource else { continue };
            let patterns = patterns(&policy, scope);
            assert!(
                patterns.iter().any(|pattern| matches(pattern, &example)),
                "{example} is not of {patterns:?}"
            );
        }
        // Each scope with the keys of its own calls: a snapshot has no tag of a request.
        let keys = |scope| simulation(scope, PRODUCTION, account).context;
        assert_eq!(keys(Scope::Makes), [("aws:RequestTag/i2kit:environment".into(), "production".into())]);
        assert_eq!(keys(Scope::Changes), [("aws:ResourceTag/i2kit:environment".into(), "production".into())]);
    }

    #[test]
    fn names_that_end_or_begin_alike_are_other_environments() {
        use crate::cloud::aws::plan::packing::{BalancerSlot, Scheme};
        let stacks = |environment: &str| {
            let name = crate::manifest::api::Name { namespace: "default".into(), name: "web".into() };
            let slot = BalancerSlot { scheme: Scheme::Public, index: 12 };
            [
                name::environment_stack(environment),
                name::balancer_stack(environment, slot),
                name::service_stack(environment, &name),
                name::role_stack(environment, "shop/reader"),
            ]
        };
        let policy = policy(Subject { environment: "prod", boundary: None });
        let patterns = patterns(&policy, Scope::Stacks);
        let is_covered = |stack: &String| {
            let arn = format!("arn:aws:cloudformation:eu-west-1:123456789012:stack/{stack}/0");
            patterns.iter().any(|pattern| matches(pattern, &arn))
        };
        assert!(stacks("prod").iter().all(is_covered), "{patterns:?}");
        for other in ["eu-prod", "prod-eu", "x-prod", "x-12-prod", "public-00-prod", "0-prod"] {
            assert!(!stacks(other).iter().any(is_covered), "{other}: {patterns:?}");
        }
    }

    /// What AWS' handlers of the templates' resource types call, from their schemas.
    #[test]
    fn whatever_cloudformation_calls_for_a_template_is_allowed() {
        let known: Value =
            serde_json::from_str(include_str!("../../../../tests/aws/bed/handlers.json")).unwrap();
        let templates = [
            include_str!("../../../../templates/aws/alias.yml"),
            include_str!("../../../../templates/aws/balancer.yml"),
            include_str!("../../../../templates/aws/environment.yml"),
            include_str!("../../../../templates/aws/ingress.yml"),
            include_str!("../../../../templates/aws/role.yml"),
            include_str!("../../../../templates/aws/service.yml"),
        ];
        let kinds: std::collections::BTreeSet<&str> = templates
            .iter()
            .flat_map(|template| template.lines())
            .filter_map(|line| line.trim().strip_prefix("Type: AWS::"))
            .collect();
        assert!(kinds.len() > 15, "{kinds:?}");
        let mut missing = Vec::new();
        for kind in kinds {
            let handlers =
                known["types"][format!("AWS::{kind}")].as_object().unwrap_or_else(|| panic!("no {kind}"));
            let calls = handlers
                .iter()
                .filter(|(verb, _)| *verb != "createOnly")
                .flat_map(|(_, calls)| calls.as_array().unwrap());
            for call in calls.map(|call| call.as_str().unwrap()) {
                let allowed = CALLS.iter().any(|own| matches(own.action, call));
                if !allowed && known["unused"].get(call).is_none() {
                    missing.push(format!("{kind}: {call}"));
                }
            }
        }
        assert!(missing.is_empty(), "{missing:#?}");
        // And nothing that they do not call.
        let called: Vec<String> = known["types"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|handlers| handlers.as_object().unwrap())
            .filter(|(verb, _)| *verb != "createOnly")
            .flat_map(|(_, calls)| calls.as_array().unwrap())
            .map(|call| call.as_str().unwrap().to_owned())
            .collect();
        let of_stacks = [Scope::Frame, Scope::Removes, Scope::Roles, Scope::Grants];
        let needless = CALLS.iter().filter(|call| of_stacks.contains(&call.scope));
        let needless: Vec<&str> = needless
            .map(|call| call.action)
            .filter(|action| !called.iter().any(|call| call == action))
            .collect();
        assert!(needless.is_empty(), "{needless:?}");
    }

    #[test]
    fn a_boundary_bounds_what_roles_are_granted() {
        let arn = "arn:aws:iam::123456789012:policy/machines";
        let bounded = policy(Subject { boundary: Some(arn), ..PRODUCTION });
        let grants = bounded["Statement"].as_array().unwrap().last().unwrap();
        assert_eq!(grants["Condition"]["StringEquals"]["iam:PermissionsBoundary"], arn);
        // A boundary that an environment gets later is put on its roles, and none is taken away.
        let granted = grants["Action"].to_string();
        assert!(granted.contains("\"iam:PutRolePermissionsBoundary\""), "{granted}");
        assert!(CALLS.iter().all(|call| !matches(call.action, "iam:DeleteRolePermissionsBoundary")));
        // What only takes away is free of it: roles without one must be mended, too.
        let takes = |call: &str| call.starts_with("iam:Delete") || call.starts_with("iam:Detach");
        assert!(CALLS.iter().all(|call| !takes(call.action) || call.scope == Scope::Roles));
        let most = boundary("production").to_string();
        assert!(most.contains("secret:i2kit/production/*") && !most.contains("iam:"), "{most}");
        // A pod's machine writes into no Job's record, and one of a Job has none started.
        let most = boundary("production");
        let statements = most["Statement"].as_array().unwrap();
        let of = |action: &str| -> Vec<&Value> {
            let quoted = format!("\"{action}\"");
            statements.iter().filter(|one| one["Action"].to_string().contains(&quoted)).collect()
        };
        let reads = of("logs:GetLogEvents");
        assert_eq!(reads.len(), 1);
        assert_eq!(reads[0]["Resource"], "arn:*:logs:*:*:log-group:/i2kit/production/jobs:*");
        assert!(!matches(
            "arn:*:logs:*:*:log-group:/i2kit/production:*",
            "arn:aws:logs:r:1:log-group:/i2kit/production/jobs:log-stream:shop/sum/1"
        ));
        for put in of("autoscaling:PutScheduledUpdateGroupAction") {
            assert_eq!(put["Condition"]["NumericEquals"]["autoscaling:MaxSize"], "0");
        }
        assert_eq!(of("autoscaling:PutScheduledUpdateGroupAction").len(), 1);
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
