//! A cloud whose guests answer late, for tests of verbs that run commands.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::StreamExt as _;
use serde_json::json;
use tokio::sync::mpsc;

use crate::cloud::exec::{Command, Output, Session};
use crate::cloud::sim::Sim;
use crate::cloud::{Cloud, CloudError, LogQuery, LogStream, Materials, Scope, Updates};
use crate::manifest::api::{Name, Strategy};
use crate::plan::act::PlannedAct;
use crate::plan::example;
use crate::plan::fleet::{Fleet, Generation, InstanceGroup};
use crate::report::{Event, Events};

/// A cloud with one instance, `web-1-abcde`, whose guest answers a moment later than it should.
#[derive(Debug, Default)]
pub(super) struct Late(Sim);

#[async_trait]
impl Cloud for Late {
    async fn inspect(&self, _: &Scope) -> Result<Fleet, CloudError> {
        let name = Name { namespace: "default".into(), name: "web".into() };
        let mut group = InstanceGroup::new(name, example::settings(Strategy::Recreate));
        let instance = json!({"id": "web-1-abcde", "revision": 1, "state": "running",
            "health": {"status": "healthy"}, "since": 1, "endpoints": [], "containers": []});
        group.instances = vec![serde_json::from_value(instance).unwrap()];
        Ok(Fleet { groups: vec![group], ..Fleet::default() })
    }

    async fn apply(&self, act: &PlannedAct, materials: &Materials) -> Result<Generation, CloudError> {
        self.0.apply(act, materials).await
    }

    fn watch<'c>(&'c self, scope: &Scope) -> Updates<'c> {
        self.0.watch(scope)
    }

    async fn logs(&self, query: &LogQuery) -> Result<LogStream, CloudError> {
        self.0.logs(query).await
    }

    async fn exec(&self, instance: &str, _: &Command) -> Result<Session, CloudError> {
        assert_eq!(instance, "web-1-abcde");
        let output = [Output::Unanswered, Output::Ended(3)].map(Ok);
        Ok(Session { input: mpsc::channel(1).0, output: futures::stream::iter(output).boxed() })
    }
}

/// Events, and what was emitted.
pub(super) fn recorded() -> (Events, Arc<Mutex<Vec<String>>>) {
    let said = Arc::<Mutex<Vec<String>>>::default();
    let kept = Arc::clone(&said);
    let events = Events::new(move |event: Event| kept.lock().unwrap().extend(event.line()));
    (events, said)
}
