//! Stacks of CloudFormation: put, waited for, deleted; what an interrupted or failed run left is made good.
//!
//! A stack in progress is being changed by an earlier run of ours or by somebody else. It is waited for, so that a stack is
//! the lock of its resources.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_cloudformation::types::{Capability, Parameter, ResourceStatus, Stack as Found, StackEvent, Tag};
use aws_smithy_types::error::metadata::ProvideErrorMetadata as _;

use super::environment::Aws;
use super::error::failed;
use super::wait::eventually;
use crate::cloud::CloudError;
use crate::cloud::aws::plan::packing::BalancerSlot;
use crate::cloud::aws::plan::record;
use crate::cloud::aws::plan::stack_templates::{StackPlan, TAG_ENVIRONMENT, TAG_PART};
use crate::plan::fleet::BalancerSpec;

/// How long a stack may take: load balancers take three to five minutes.
const LIMIT: Duration = Duration::from_mins(30);

/// What the tokens of our requests begin with.
const HOLDER: &str = "i2kit-";

/// Tries of putting a stack that somebody else changes at the same time.
pub(super) const TRIES: u32 = 5;

/// The request of a call that applies a plan to a stack. A macro, because the SDK has a type for each call.
macro_rules! request {
    ($aws:expr, $plan:expr, $call:ident) => {
        $aws.clients
            .stacks
            .$call()
            .stack_name(&$plan.name)
            .template_body(&$plan.template)
            .set_parameters(Some(parameters($plan)))
            .set_tags(Some($aws.stack_tags($plan)))
            .capabilities(Capability::CapabilityIam)
            .client_request_token($aws.request_token($plan))
    };
}

/// A stack as it was found.
#[derive(Debug, Clone)]
pub(super) struct Stack {
    pub(super) name: String,
    pub(super) status: String,
    pub(super) part: String,
    pub(super) outputs: BTreeMap<String, String>,
    pub(super) parameters: BTreeMap<String, String>,
    /// When it was made or last changed, in seconds since the Unix epoch.
    pub(super) changed: u64,
}

impl Stack {
    fn new(found: &Found) -> Self {
        let pair = |key: Option<&str>, value: Option<&str>| Some((key?.to_owned(), value?.to_owned()));
        let tag = |key: &str| found.tags().iter().find(|tag| tag.key() == Some(key)).and_then(Tag::value);
        Self {
            name: found.stack_name().unwrap_or_default().to_owned(),
            status: found.stack_status().map(|status| status.as_str().to_owned()).unwrap_or_default(),
            part: tag(TAG_PART).unwrap_or_default().to_owned(),
            outputs: found.outputs().iter().filter_map(|o| pair(o.output_key(), o.output_value())).collect(),
            parameters: found
                .parameters()
                .iter()
                .filter_map(|p| pair(p.parameter_key(), p.parameter_value()))
                .collect(),
            changed: found
                .last_updated_time()
                .or(found.creation_time())
                .and_then(|time| u64::try_from(time.secs()).ok())
                .unwrap_or_default(),
        }
    }

    /// What its Service or Ingress asks for; `None` where it is the stack of something else.
    ///
    /// # Errors
    /// The record is not there, or is damaged: what to do about it.
    pub(super) fn record(&self) -> Result<Option<BalancerSpec>, CloudError> {
        if self.part != "service" {
            return Ok(None);
        }
        record::read(&self.parameters).map(Some).map_err(|fault| CloudError::Refused {
            message: format!(
                "stack {name} does not say any more what its Service asks for: {fault}. Deploy the manifest of the \
                 Service alone, which writes it again (in a set, another Service may be refused first); or put back in \
                 CloudFormation what was there; or delete the environment with `i2kit destroy --all`",
                name = self.name
            ),
        })
    }

    /// The load balancer that its Service shares; said apart from the record, which may be damaged.
    pub(super) fn placement(&self) -> Option<BalancerSlot> {
        self.parameters.get("Placement").and_then(|text| text.parse().ok())
    }

    /// ARNs of the target groups that it made, those that its Service is moving to among them; without the record, too.
    pub(super) fn target_groups(&self) -> impl Iterator<Item = &String> {
        self.outputs.iter().filter(|(key, _)| is_target_group(key)).map(|(_, arn)| arn)
    }

    /// Whether it is what it was asked to be.
    pub(super) fn is_complete(&self) -> bool {
        matches!(
            self.status.as_str(),
            "CREATE_COMPLETE"
                | "UPDATE_COMPLETE"
                | "UPDATE_ROLLBACK_COMPLETE"
                | "IMPORT_COMPLETE"
                | "IMPORT_ROLLBACK_COMPLETE"
        )
    }

    /// Whether it has made something, or is about to, that is not to be deleted. One in review has a plan and nothing else.
    pub(super) fn stays(&self) -> bool {
        let has_nothing = matches!(
            self.status.as_str(),
            "REVIEW_IN_PROGRESS" | "ROLLBACK_IN_PROGRESS" | "DELETE_IN_PROGRESS"
        );
        !has_nothing && !self.is_dead()
    }

    /// Whether it never came to be, or could not be deleted: it is deleted, and made anew when it is put.
    pub(super) fn is_dead(&self) -> bool {
        matches!(
            self.status.as_str(),
            "ROLLBACK_COMPLETE" | "ROLLBACK_FAILED" | "CREATE_FAILED" | "DELETE_FAILED"
        )
    }

    /// Whether somebody changes it just now.
    pub(super) fn is_moving(&self) -> bool {
        self.status.ends_with("_IN_PROGRESS")
    }

    /// The value of an output that its template has.
    pub(super) fn output(&self, key: &str) -> Result<String, CloudError> {
        self.outputs
            .get(key)
            .cloned()
            .ok_or_else(|| CloudError::not_found(format!("output {key} of stack"), &self.name))
    }
}

/// Whether an output of a stack is the ARN of a target group.
pub(super) fn is_target_group(output: &str) -> bool {
    output.starts_with("Targets")
}

impl Aws {
    /// Every stack of the environment, whatever is in its record: who deletes needs none.
    pub(super) async fn stacks(&self) -> Result<Vec<Stack>, CloudError> {
        let found: Vec<Found> = self
            .clients
            .stacks
            .describe_stacks()
            .into_paginator()
            .items()
            .send()
            .try_collect()
            .await
            .map_err(failed("DescribeStacks"))?;
        let environment = self.settings.environment.as_str();
        let ours = |stack: &&Found| {
            stack
                .tags()
                .iter()
                .any(|tag| tag.key() == Some(TAG_ENVIRONMENT) && tag.value() == Some(environment))
        };
        let mut stacks: Vec<Stack> = found.iter().filter(ours).map(Stack::new).collect();
        stacks.retain(|stack| stack.status != "DELETE_COMPLETE");
        stacks.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(stacks)
    }

    /// The stack of that name, whatever its state.
    pub(super) async fn stack(&self, name: &str) -> Result<Option<Stack>, CloudError> {
        let found = self.clients.stacks.describe_stacks().stack_name(name).send().await;
        match found {
            Ok(found) => Ok(found.stacks().first().map(Stack::new)),
            Err(error) if error.message().is_some_and(|text| text.contains("does not exist")) => Ok(None),
            Err(error) => Err(failed("DescribeStacks")(error)),
        }
    }

    /// The stack of that name once nobody works on it.
    pub(super) async fn settled(&self, name: &str) -> Result<Option<Stack>, CloudError> {
        eventually(&format!("stack {name}, which is being changed"), LIMIT, || async {
            let found = self.stack(name).await?;
            Ok((!found.as_ref().is_some_and(Stack::is_moving)).then_some(found))
        })
        .await
    }

    /// The same, after a note with the name of who changes the stack.
    pub(super) async fn at_rest(&self, name: &str) -> Result<Option<Stack>, CloudError> {
        let found = self.stack(name).await?;
        if !found.as_ref().is_some_and(Stack::is_moving) {
            return Ok(found);
        }
        let events = self.newest_change(name).await.unwrap_or_default();
        let token = events.iter().find_map(|event| event.client_request_token().map(str::to_owned));
        let holder = token.as_deref().and_then(holder_of).unwrap_or("somebody");
        self.events.note(format!("waiting for stack {name}, which {holder} is changing"));
        self.settled(name).await
    }

    /// The stack at rest, where nobody has changed it since it was `found`.
    pub(super) async fn unchanged(&self, found: &Stack) -> Result<Option<Stack>, CloudError> {
        let there = self.at_rest(&found.name).await?;
        Ok(there.filter(|there| there.changed == found.changed))
    }

    /// Names this run in the stack's events, where a run that waits for this one finds it.
    fn request_token(&self, plan: &StackPlan) -> String {
        let act: String = self.token(&format!("{} {:?} {}", plan.name, plan.parameters, plan.template));
        format!("{HOLDER}{}-{}", self.settings.holder, act.chars().take(16).collect::<String>())
    }

    /// Creates the stack or updates it to the plan.
    pub(super) async fn put_stack(&self, plan: &StackPlan) -> Result<Stack, CloudError> {
        for _ in 0..TRIES {
            let found = self.at_rest(&plan.name).await?;
            if let Some(put) = self.put_over(found.as_ref(), plan).await? {
                return Ok(put);
            }
        }
        Err(contested(&plan.name))
    }

    /// The same of a stack that was `found` at rest; `None` when somebody else has begun to change it since. A plan that follows
    /// from what was there is made again then.
    pub(super) async fn put_over(
        &self,
        found: Option<&Stack>,
        plan: &StackPlan,
    ) -> Result<Option<Stack>, CloudError> {
        let began = match found {
            None => self.create(plan).await?,
            Some(stack) if stack.is_dead() => {
                self.delete_stack(&plan.name).await?;
                self.create(plan).await?
            }
            Some(stack) if stack.status == "UPDATE_ROLLBACK_FAILED" => return Err(stuck(&plan.name)),
            Some(_) => self.update(plan).await?,
        };
        match began {
            Began::Nothing => Ok(found.cloned()),
            Began::Elsewhere => Ok(None),
            Began::Create => self.finished(plan, "CreateStack", "CREATE_COMPLETE").await.map(Some),
            Began::Update => self.finished(plan, "UpdateStack", "UPDATE_COMPLETE").await.map(Some),
        }
    }

    async fn create(&self, plan: &StackPlan) -> Result<Began, CloudError> {
        let created = request!(self, plan, create_stack).send().await;
        match created {
            Ok(_) => Ok(Began::Create),
            // Another run was faster, or an answer of ours was lost.
            Err(error) if error.code() == Some("AlreadyExistsException") => Ok(Began::Elsewhere),
            Err(error) => Err(failed("CreateStack")(error)),
        }
    }

    async fn update(&self, plan: &StackPlan) -> Result<Began, CloudError> {
        let updated = request!(self, plan, update_stack).send().await;
        match updated {
            Ok(_) => Ok(Began::Update),
            Err(error)
                if error.message().is_some_and(|text| text.contains("No updates are to be performed")) =>
            {
                Ok(Began::Nothing)
            }
            Err(error) if error.message().is_some_and(|text| text.contains("_IN_PROGRESS")) => {
                Ok(Began::Elsewhere)
            }
            Err(error) => Err(failed("UpdateStack")(error)),
        }
    }

    fn stack_tags(&self, plan: &StackPlan) -> Vec<Tag> {
        let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
        vec![tag(TAG_ENVIRONMENT, &self.settings.environment), tag(TAG_PART, plan.part)]
    }

    /// The stack once it is at rest; an error with CloudFormation's reason when it is not in the state `good`.
    async fn finished(&self, plan: &StackPlan, operation: &str, good: &str) -> Result<Stack, CloudError> {
        let found = self.settled(&plan.name).await?;
        match found {
            Some(stack) if stack.status == good => Ok(stack),
            Some(stack) if stack.status == "UPDATE_ROLLBACK_FAILED" => Err(stuck(&plan.name)),
            other => Err(CloudError::Api {
                operation: format!("{operation} of {}", plan.name),
                code: other.map_or_else(|| "gone".to_owned(), |stack| stack.status),
                message: self.reason(&plan.name).await,
                advice:
                    "mend the cause and run the command again; a stack that was never complete is made anew"
                        .into(),
                transient: false,
            }),
        }
    }

    /// The first failure of the newest change of a stack, in CloudFormation's words.
    async fn reason(&self, name: &str) -> String {
        match self.newest_change(name).await {
            Some(events) => cause(&events).unwrap_or_else(|| "no failure among its events".to_owned()),
            None => "its events cannot be read".to_owned(),
        }
    }

    /// The events of the newest change of a stack, the newest first: as many pages as it takes, for the cause of a failure
    /// is older than all that followed from it. `None` when they cannot be read.
    async fn newest_change(&self, name: &str) -> Option<Vec<StackEvent>> {
        let asked = self.clients.stacks.describe_stack_events().stack_name(name);
        let mut pages = asked.into_paginator().send();
        let mut events = Vec::new();
        while let Some(page) = pages.next().await {
            if take_page(&mut events, page.ok()?.stack_events.unwrap_or_default()) {
                break;
            }
        }
        Some(events)
    }

    /// Deletes the stack; returns once it is gone. One that does not exist is no error.
    pub(super) async fn delete_stack(&self, name: &str) -> Result<(), CloudError> {
        if self.at_rest(name).await?.is_none() {
            return Ok(());
        }
        self.clients.stacks.delete_stack().stack_name(name).send().await.map_err(failed("DeleteStack"))?;
        match self.settled(name).await? {
            None => Ok(()),
            Some(stack) if stack.status == "DELETE_COMPLETE" => Ok(()),
            Some(stack) => Err(CloudError::Api {
                operation: format!("DeleteStack of {name}"),
                code: stack.status,
                message: self.reason(name).await,
                advice: "something outside i2kit may use what the stack made: remove that, then run again"
                    .into(),
                transient: false,
            }),
        }
    }
}

/// The sender in a request's token.
fn holder_of(token: &str) -> Option<&str> {
    Some(token.strip_prefix(HOLDER)?.rsplit_once('-')?.0)
}

/// Takes of a page of a stack's events, the newest first, those of its newest change; whether that began among them.
fn take_page(events: &mut Vec<StackEvent>, mut page: Vec<StackEvent>) -> bool {
    let began = |event: &StackEvent| {
        event.resource_type() == Some("AWS::CloudFormation::Stack")
            && matches!(status_of(event), "CREATE_IN_PROGRESS" | "UPDATE_IN_PROGRESS" | "DELETE_IN_PROGRESS")
    };
    let first = page.iter().position(began);
    page.truncate(first.map_or(page.len(), |first| first + 1));
    events.extend(page);
    first.is_some()
}

/// The first failure among the events of a change.
fn cause(events: &[StackEvent]) -> Option<String> {
    let mut failed = events.iter().filter(|event| {
        status_of(event).ends_with("_FAILED")
            && event.resource_status_reason() != Some("Resource creation cancelled")
    });
    // Newest first: the cause is the last one, its consequences come before it.
    let event = failed.next_back()?;
    let what = event.logical_resource_id().unwrap_or("stack");
    Some(format!("{what}: {}", event.resource_status_reason().unwrap_or("no reason given")))
}

fn status_of(event: &StackEvent) -> &str {
    event.resource_status().map(ResourceStatus::as_str).unwrap_or_default()
}

/// What a call set off.
enum Began {
    Create,
    Update,
    Nothing,
    /// Somebody else is at it.
    Elsewhere,
}

fn parameters(plan: &StackPlan) -> Vec<Parameter> {
    let parameter = |(key, value): &(String, String)| {
        Parameter::builder().parameter_key(key).parameter_value(value).build()
    };
    plan.parameters.iter().map(parameter).collect()
}

/// Somebody else was faster each time.
pub(super) fn contested(name: &str) -> CloudError {
    CloudError::Conflict { message: format!("stack {name} is changed by somebody else all the time") }
}

fn stuck(name: &str) -> CloudError {
    CloudError::Api {
        operation: format!("UpdateStack of {name}"),
        code: "UPDATE_ROLLBACK_FAILED".into(),
        message: "an update failed and could not be undone".into(),
        advice: format!(
            "mend what its events in the console name, then run `aws cloudformation continue-update-rollback \
             --stack-name {name}` as who administers the account, then this command again"
        )
        .into(),
        transient: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, status: ResourceStatus) -> StackEvent {
        StackEvent::builder().resource_type(kind).resource_status(status).build()
    }

    #[test]
    fn failures_of_earlier_changes_are_not_told() {
        let stack = "AWS::CloudFormation::Stack";
        let events = [
            event("AWS::EC2::Subnet", ResourceStatus::UpdateFailed),
            event(stack, ResourceStatus::UpdateInProgress),
            event("AWS::EC2::VPC", ResourceStatus::CreateFailed),
            event(stack, ResourceStatus::CreateInProgress),
        ];
        let mut newest = Vec::new();
        assert!(take_page(&mut newest, events.to_vec()));
        assert_eq!(newest, events[..2]);
    }

    #[test]
    fn the_cause_is_found_behind_a_page_of_consequences() {
        let stack = "AWS::CloudFormation::Stack";
        let failed = |what: &str, reason: &str| {
            let event = StackEvent::builder().logical_resource_id(what).resource_status_reason(reason);
            event.resource_status(ResourceStatus::CreateFailed).build()
        };
        let mut newest = Vec::new();
        assert!(!take_page(&mut newest, vec![failed("B", "A is not there")]));
        let began = event(stack, ResourceStatus::UpdateInProgress);
        assert!(take_page(&mut newest, vec![failed("A", "no room"), began, failed("C", "old")]));
        assert_eq!(cause(&newest), Some("A: no room".to_owned()));
        assert_eq!(cause(&newest[2..]), None);
    }

    #[test]
    fn a_stack_whose_record_was_changed_is_named() {
        use crate::manifest::api::{Name, ServiceType};
        let name = Name { namespace: "shop".into(), name: "web".into() };
        let spec = BalancerSpec::new(name, ServiceType::ClusterIP, vec![]);
        let mut stack = Stack {
            name: "i2kit-service-1-test".into(),
            status: "UPDATE_COMPLETE".into(),
            part: "service".into(),
            outputs: BTreeMap::new(),
            parameters: record::write(&spec).into_iter().collect(),
            changed: 0,
        };
        assert_eq!(stack.record().unwrap(), Some(spec));
        stack.parameters.insert("Spec0".into(), "{}".into());
        let error = stack.record().unwrap_err().to_string();
        assert!(error.contains("stack i2kit-service-1-test does not say any more"), "{error}");
        assert!(error.contains("from Spec0 on are not what i2kit has written"), "{error}");
        assert!(error.contains("Deploy the manifest of the Service"), "{error}");
        // What deletion needs is said without it.
        stack.parameters.insert("Placement".into(), "public-1".into());
        stack.outputs = [("TargetsA", "arn:a"), ("Spec0", "{}"), ("DnsName", "a.example")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        assert_eq!(stack.placement().map(|slot| slot.to_string()).as_deref(), Some("public-1"));
        assert_eq!(stack.target_groups().collect::<Vec<_>>(), ["arn:a"]);
        // Stacks of other things have none.
        stack.part = "balancer".into();
        assert_eq!(stack.record().unwrap(), None);
    }

    #[test]
    fn a_token_names_its_sender() {
        assert_eq!(holder_of("i2kit-ana-build-3-0123456789abcdef"), Some("ana-build-3"));
        assert_eq!(holder_of("Console-CreateStack-1"), None);
    }
}
